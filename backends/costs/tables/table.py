"""The cost of every node of a network at every width, and of N policies in one vectorised call."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property

import numpy as np

from qir.backends.costs.layers.cost import Cost, combined
from qir.backends.costs.tables.policy_codes import Codes, code_of, read_codes
from qir.backends.costs.tables.rows import CostRow, Floats, NetworkFacts, NodeCost, reasons_text
from qir.errors import TargetError
from qir.policy import Bits
from qir.support.html_table import html_table
from qir.support.nearest import nearest

METRICS = ("cycles", "energy_pj", "total_bytes", "bit_operations")
"""Additive columns of a table: attributes of `Cost`."""

_BLOCK = 4096
"""Policies looked up at once: their indices stay in the cache."""


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


def _merged(parts: Sequence[tuple[CostRow, Cost, int, int]]) -> NodeCost:
    row, _, first, second = parts[0]
    cost = combined(part[1] for part in parts)
    weight_bits = row.weight_widths[second] if row.weight is not None else None
    return NodeCost(
        row.name, row.op, row.activation_widths[first], weight_bits, cost.cycles, cost.bound_by, cost, row.step
    )


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
