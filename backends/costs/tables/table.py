"""The cost of every node of a network at every width, and of N policies in one vectorised call."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import numpy.typing as npt

from qir.backends.costs.layers.cost import Cost, combined
from qir.backends.costs.tables.policy_codes import Codes, code_of, read_codes
from qir.errors import TargetError
from qir.policy import Bits
from qir.support.html_table import html_table
from qir.support.nearest import nearest
from qir.types import Dim

Floats = npt.NDArray[np.float64]
METRICS = ("cycles", "energy_pj", "total_bytes", "bit_operations")
"""Additive columns of a table: attributes of `Cost`."""

_BLOCK = 4096
"""Policies looked up at once: their indices stay in the cache."""


@dataclass(frozen=True)
class CostRow:
    """One term of a node's cost: its layer, or the traffic of one of its tensors.

    Attributes:
        name: layer name: the weight quantizer's name without `.weight`, else the node's name.
        op: op type.
        node: name of the node.
        activation, weight: quantizers of the operands, None where an operand is float or there is no weight.
        activation_widths, weight_widths: widths of the axes of `costs`.
        costs: [activation widths][weight widths]; None = illegal pair.
        known: False when the op or its shape is unknown: its cost is NaN.
        part: `product` of a layer, or the traffic of `result`, `operand`.
        step: position of the node among the costed nodes.
        reason: why the cost is unknown, and what makes it known.
    """

    name: str
    op: str
    node: str
    activation: str | None
    weight: str | None
    activation_widths: tuple[int, ...]
    weight_widths: tuple[int, ...]
    costs: tuple[tuple[Cost | None, ...], ...]
    known: bool = True
    part: str = "product"
    step: int = 0
    reason: str = ""

    def matrix(self, metric: str) -> Floats:
        """[activation widths, weight widths] of a metric; +inf = illegal, NaN = unknown."""
        if not self.known:
            return np.full((len(self.activation_widths), len(self.weight_widths)), np.nan)
        return np.array([[np.inf if cost is None else getattr(cost, metric) for cost in row] for row in self.costs])


@dataclass(frozen=True)
class NodeCost:
    """A node's cost at one policy: `node` is the layer's name."""

    node: str
    op: str
    activation_bits: int
    weight_bits: int | None
    cycles: float
    bound_by: str
    cost: Cost
    step: int = 0


@dataclass(frozen=True, slots=True)
class HeldTensor:
    """An activation in memory: from the step that writes it to the last step that reads it.

    Attributes:
        elements: of the tensor.
        quantizer: whose width it is stored at; None = float, `width` bits.
        width: stored bits of an element where there is no quantizer.
        first, last: steps.
    """

    elements: int
    quantizer: str | None
    width: int
    first: int
    last: int


@dataclass(frozen=True, slots=True)
class HeldWeight:
    """A constant of the network.

    Attributes:
        elements: of the constant.
        quantizer: whose width it is packed at; None = float, 32 bits.
        scales: float32 scales that are stored with it.
    """

    elements: int
    quantizer: str | None
    scales: int


@dataclass(frozen=True)
class NetworkFacts:
    """What reports need next to costs.

    Attributes:
        predecessors: step → steps whose results it reads.
        tensors: activations and when they live, in the file's order of nodes.
        weights: constants.
        notes: what was assumed.
        unsized: name of a tensor of unknown size → its quantizer.
        sizes: input whose sizes the network leaves open → the sizes that were taken.
    """

    predecessors: Mapping[int, frozenset[int]] = field(default_factory=dict)
    tensors: tuple[HeldTensor, ...] = ()
    weights: tuple[HeldWeight, ...] = ()
    notes: tuple[str, ...] = ()
    unsized: Mapping[str, str | None] = field(default_factory=dict)
    sizes: Mapping[str, tuple[Dim, ...]] = field(default_factory=dict)


class CostTable:
    """Costs of a network on a target.

    Attributes:
        terms: cost terms in graph order; nodes that fuse into their producer, and views, have none.
        widths: candidate widths of every quantizer, in the order of the columns of codes.
        target: name of the target.
        facts: liveness, predecessors and constants, for reports.
        reasons: node of unknown cost → why it is unknown, and what makes it known.
    """

    def __init__(
        self,
        rows: Sequence[CostRow],
        widths: Mapping[str, tuple[int, ...]],
        target: str,
        facts: NetworkFacts | None = None,
    ) -> None:
        self.terms = tuple(rows)
        self.widths = dict(widths)
        self.target = target
        self.facts = facts or NetworkFacts()
        self.reasons = {row.name: row.reason for row in rows if not row.known}
        self._compiled: dict[str, _Lookup] = {}

    def __iter__(self) -> Iterator[CostRow]:
        return iter(self.terms)

    def __len__(self) -> int:
        return len(self.terms)

    @property
    def unknown(self) -> tuple[str, ...]:
        """Names of the nodes whose cost is unknown, in order."""
        return tuple(self.reasons)

    @cached_property
    def columns(self) -> dict[str, int]:
        """Column of each quantizer in codes."""
        return {name: column for column, name in enumerate(self.widths)}

    def rows(self, policy: Mapping[str, Bits]) -> list[NodeCost]:
        """Return the cost of every known node at a policy.

        Raises:
            TargetError: a pair of widths is illegal on the target, or a quantizer has no int width.
        """
        by_step: dict[int, list[tuple[CostRow, Cost, int, int]]] = {}
        for row in self.terms:
            if row.known:
                first, second = self._positions(row, policy)
                by_step.setdefault(row.step, []).append((row, self._legal(row, first, second), first, second))
        return [_merged(parts) for parts in by_step.values()]

    def _legal(self, row: CostRow, first: int, second: int) -> Cost:
        cost = row.costs[first][second]
        if cost is None:
            raise TargetError(
                f"node {row.name!r}: target {self.target!r} cannot multiply {row.activation_widths[first]}-bit "
                f"activations by {row.weight_widths[second]}-bit weights"
            )
        return cost

    def _positions(self, row: CostRow, policy: Mapping[str, Bits]) -> tuple[int, int]:
        first, second = ((0 if name is None else self._code(name, policy)) for name in (row.activation, row.weight))
        return first, second

    def _repr_html_(self) -> str:
        """Show cycles of every node at its widest widths in a notebook."""
        widest = {name: widths[-1] for name, widths in self.widths.items()}
        legal = self.uniform(max(widest.values(), default=8), max(widest.values(), default=8))
        rows = [
            (
                cell.node,
                cell.op,
                f"{cell.activation_bits}/{cell.weight_bits or ''}",
                f"{cell.cycles:,.0f}",
                cell.bound_by,
            )
            for cell in self.rows(legal)
        ]
        unknown = [reasons_text(self.reasons, "unknown cost: {names}")] if self.reasons else []
        return html_table(("node", "op", "bits", f"cycles on {self.target}", "bound by"), rows, unknown)

    def cost(
        self, policies: Sequence[Mapping[str, Bits]] | Codes, metric: str = "cycles", *, unknown: str = "raise"
    ) -> Floats:
        """Return the metric's total of every policy: float64 [policies]; +inf where a pair is illegal.

        Widths along channels cost in proportion to the number of channels that have each width. Millions of policies a
        second are looked up as an array of codes; reading each policy's map limits the other form to some 100,000.

        Args:
            policies: bits by name of quantizer, or codes as `codes` gives them.
            metric: `cycles`, `energy_pj`, `total_bytes` or `bit_operations`.
            unknown: `raise`, or `ignore` to leave out nodes of unknown cost.

        Raises:
            TargetError: a node's cost is unknown, a quantizer is missing, or a width is not a candidate.
        """
        if isinstance(policies, np.ndarray):
            return self.cost_codes(policies, metric, unknown=unknown)
        if isinstance(policies, Mapping):
            raise TargetError("cost table: found one policy; expected a list of policies")
        codes = read_codes(policies, self.widths)
        if codes is not None:
            return self.cost_codes(codes, metric, unknown=unknown)
        self._refuse_unknown(unknown)
        maps = [dict(policy) for policy in policies]
        return np.array([sum(self._shared(row, policy, metric) for row in self.terms) for policy in maps])

    def codes(self, policies: Sequence[Mapping[str, Bits]]) -> Codes:
        """Return indices into the quantizers' widths: int8 [policies, quantizers].

        Raises:
            TargetError: a quantizer is missing or unknown, a width is not a candidate, or bits differ along channels.
        """
        codes = read_codes(policies, self.widths)
        if codes is None:
            raise TargetError("cost table: bits that differ along channels have no code: call cost with the policies")
        return codes

    def cost_codes(self, codes: Codes, metric: str = "cycles", *, unknown: str = "raise") -> Floats:
        """As `cost`, for indices into the quantizers' widths: [policies, quantizers in the order of `widths`]."""
        self._refuse_unknown(unknown)
        if metric not in METRICS:
            raise TargetError(f"cost table: metric {metric!r}: {nearest(metric, METRICS)}")
        lengths = np.array([len(widths) for widths in self.widths.values()], np.int64)
        if codes.ndim != 2 or codes.shape[1] != len(lengths) or codes.dtype.kind not in "iu":
            raise TargetError(
                f"cost table: codes {codes.dtype} {codes.shape}; expected integers [policies, {len(lengths)}]"
            )
        if codes.size and (codes.min() < 0 or (codes.max(axis=0) >= lengths).any()):
            column = int(np.argmax((codes.min(axis=0) < 0) | (codes.max(axis=0) >= lengths)))
            name = list(self.widths)[column]
            raise TargetError(f"cost table: a code of quantizer {name!r} is outside 0 to {lengths[column] - 1}")
        lookup = self._compiled.get(metric)
        if lookup is None:
            lookup = self._compiled[metric] = _Lookup(self, metric)
        return lookup(codes)

    def _refuse_unknown(self, unknown: str) -> None:
        if self.unknown and unknown != "ignore":
            said = reasons_text(self.reasons, "the cost of {names} is unknown")
            raise TargetError(f"{said}; give what is missing, or leave it out with unknown='ignore'")

    def _shared(self, row: CostRow, policy: Mapping[str, Bits], metric: str) -> float:
        """Return a term's cost where channels have widths of their own."""
        if not row.known:
            return 0.0
        matrix = row.matrix(metric)
        total = 0.0
        for first, left in self._shares(row.activation, policy).items():
            for second, right in self._shares(row.weight, policy).items():
                total += left * right * float(matrix[first, second])
        return total

    def _shares(self, name: str | None, policy: Mapping[str, Bits]) -> dict[int, float]:
        """Return the index of a width → share of the channels that have it; pruned channels cost nothing."""
        bits = None if name is None else policy.get(name)
        if name is None or not isinstance(bits, tuple):
            return {0 if name is None else self._code(name, policy): 1.0}
        shares: dict[int, float] = {}
        for width in bits:
            if width:
                index = code_of(name, width, self.widths)
                shares[index] = shares.get(index, 0.0) + 1 / len(bits)
        return shares

    def _code(self, name: str, policy: Mapping[str, Bits]) -> int:
        return code_of(name, policy.get(name), self.widths)

    def uniform(self, activation_bits: int, weight_bits: int) -> dict[str, Bits]:
        """Return every weight at one width and every activation at another.

        What has no such width takes its widest (an input pinned to 8 bits), and a weight whose activation cannot meet
        it takes the legal width nearest to the one that was asked for.
        """
        weights = {row.weight for row in self.terms} - {None}
        wanted = {name: weight_bits if name in weights else activation_bits for name in self.widths}
        policy: dict[str, Bits] = {
            name: bits if bits in self.widths[name] else self.widths[name][-1] for name, bits in wanted.items()
        }
        pinned = {name for name, bits in wanted.items() if name not in weights and policy[name] != bits}
        for row in self.terms:
            if row.weight is not None and row.activation in pinned:
                line = row.costs[self._code(row.activation or "", policy)]
                legal = [width for width, cost in zip(row.weight_widths, line, strict=True) if cost is not None]
                if legal and policy[row.weight] not in legal:
                    policy[row.weight] = min(legal, key=lambda width: abs(width - weight_bits))
        return policy


def reasons_text(unknown: Mapping[str, str], form: str, most: int = 5) -> str:
    """Return why costs are unknown, nodes of one reason together.

    Args:
        unknown: node → reason.
        form: what is said of each reason, such as "the cost of {names} is unknown".
        most: nodes of a reason that are named.
    """
    by_reason: dict[str, list[str]] = {}
    for name, reason in unknown.items():
        by_reason.setdefault(reason, []).append(name)
    said = []
    for reason, names in by_reason.items():
        shown = ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")
        said.append(form.format(names=shown) + (f": {reason}" if reason else ""))
    return "; ".join(said)


def _merged(parts: Sequence[tuple[CostRow, Cost, int, int]]) -> NodeCost:
    row, _, first, second = parts[0]
    cost = combined(part[1] for part in parts)
    weight_bits = row.weight_widths[second] if row.weight is not None else None
    return NodeCost(
        row.name, row.op, row.activation_widths[first], weight_bits, cost.cycles, cost.bound_by, cost, row.step
    )


def layer_cells(rows: Iterable[CostRow]) -> dict[tuple[int, int], Cost]:
    """(activation bits, weight bits) → cost of a layer's products, all at these widths; legal pairs only."""
    found: list[dict[tuple[int, int], Cost]] = [
        {
            (a, w): cost
            for a, line in zip(row.activation_widths, row.costs, strict=True)
            for w, cost in zip(row.weight_widths, line, strict=True)
            if cost is not None
        }
        for row in rows
        if row.part == "product"
    ]
    pairs = [pair for pair in found[0] if all(pair in cells for cells in found)] if found else []
    return {pair: combined(cells[pair] for cells in found) for pair in pairs}


class _Lookup:
    """A metric's terms with the same quantizers added up: one look-up a policy and pair of quantizers."""

    def __init__(self, table: CostTable, metric: str) -> None:
        self.fixed = 0.0
        pairs: dict[tuple[int, int], Floats] = {}
        single: dict[int, Floats] = {}
        for row in table.terms:
            if not row.known:
                continue
            matrix = row.matrix(metric)
            used = [table.columns[name] for name in (row.activation, row.weight) if name is not None]
            if len(used) == 2 and used[0] != used[1]:
                key = (used[0], used[1])
                pairs[key] = pairs[key] + matrix if key in pairs else matrix
            elif used:
                line = matrix.diagonal() if len(used) == 2 else matrix.reshape(-1)
                single[used[0]] = single[used[0]] + line if used[0] in single else line
            else:
                self.fixed += float(matrix[0, 0])
        self.pairs = self._with_singles(pairs, single)
        self.single = single

    @staticmethod
    def _with_singles(
        pairs: dict[tuple[int, int], Floats], single: dict[int, Floats]
    ) -> list[tuple[int, int, int, Floats]]:
        """Fold terms of one quantizer into a pair that it is part of: (first, second, row length, flat table)."""
        folded = []
        for (first, second), matrix in pairs.items():
            whole = matrix + single.pop(first, np.zeros(1))[:, None] + single.pop(second, np.zeros(1))[None, :]
            folded.append((first, second, matrix.shape[1], np.ascontiguousarray(whole).reshape(-1)))
        return folded

    def __call__(self, codes: Codes) -> Floats:
        total = np.full(len(codes), self.fixed)
        for start in range(0, len(codes), _BLOCK):
            block = np.ascontiguousarray(codes[start : start + _BLOCK].T)
            part = total[start : start + _BLOCK]
            for first, second, length, flat in self.pairs:
                part += flat.take(block[first] * np.intp(length) + block[second])
            for column, line in self.single.items():
                part += line.take(block[column])
        return total
