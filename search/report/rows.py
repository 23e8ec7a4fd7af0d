"""Rows of the closing table of a quantization, and what its policies cost."""

from __future__ import annotations

from dataclasses import dataclass

from qir.backends.costs.tables.table import CostTable
from qir.module import Module
from qir.passes.constraints.policies import apply_policy
from qir.passes.constraints.propagate_constraints import BitConstraints
from qir.passes.parity.agreement import Agreement
from qir.policy import Bits, Policy
from qir.search.problem.channels import completed
from qir.search.problem.problem import Problem
from qir.search.report.comparison import float_bytes, weight_bytes

HEADINGS = (
    "network",
    "bits",
    "accuracy",
    "as in float",
    "SQNR",
    "cycles",
    "bit operations",
    "share",
    "weight bytes",
    "bytes on disk",
)


@dataclass(frozen=True)
class Row:
    """One network of the closing table; what was not measured, or is not known, is None.

    Attributes:
        label: `float`, `uniform` with its widths, or `chosen`.
        bits: how many decisions are at which width, widest first.
        accuracy: share of labelled samples that it gets right, 0 to 1.
        agreeing: share of the decisions that are as in float, of the output that agrees least.
        sqnr: signal to quantization noise ratio in decibels, of the worst output.
        cycles: latency by the target's cost model, of the nodes whose cost is known.
        share: cycles, or bit operations, as a share of 8 bits everywhere.
        weight_bytes: integer weights at their bits, packed (float32 weights of the float network).
        disk_bytes: bytes of the model file.
        within: whether it meets every budget.
        bit_operations: multiply-accumulates x weight bits x activation bits, where cycles are unknown.
    """

    label: str
    bits: str = ""
    accuracy: float | None = None
    agreeing: float | None = None
    sqnr: float | None = None
    cycles: float | None = None
    share: float | None = None
    weight_bytes: int | None = None
    disk_bytes: int | None = None
    within: bool = True
    bit_operations: float | None = None

    def cells(self) -> tuple[str, ...]:
        """Return the row as text, empty where a figure is missing."""
        share = "" if self.share is None else f"{self.share:.3f}"
        return (
            self.label,
            self.bits,
            _percent(self.accuracy),
            _percent(self.agreeing),
            "" if self.sqnr is None else f"{self.sqnr:.1f} dB",
            _whole(self.cycles),
            _whole(self.bit_operations),
            share if self.within else f"{share} over budget".strip(),
            _whole(self.weight_bytes),
            _whole(self.disk_bytes),
        )


@dataclass(frozen=True)
class Layer:
    """A layer of the written network, before (at the widest policy) and now.

    Attributes:
        name: of its node.
        activation_bits: of its data now.
        weight_bits: of its weight now.
        reference_cycles: cycles before.
        cycles: cycles now.
        bound_by: what bounds them now.
        energy: picojoules before and now; zero where the target has no figures.
        bytes_moved: bytes through all memories before and now.
        choices: (activation bits, weight bits, cycles, what bounds them) of every legal pair of widths.
    """

    name: str
    activation_bits: int
    weight_bits: int
    reference_cycles: float
    cycles: float
    bound_by: str
    energy: tuple[float, float] = (0.0, 0.0)
    bytes_moved: tuple[float, float] = (0.0, 0.0)
    choices: tuple[tuple[int, int, float, str], ...] = ()


@dataclass(frozen=True)
class Costed:
    """A calibrated network with what its policies cost.

    Attributes:
        network: the network.
        constraints: its decisions.
        table: cost of every node.
        problem: its budgets; None where no bits were searched.
    """

    network: Module
    constraints: BitConstraints
    table: CostTable
    problem: Problem | None

    def uniform(self, bits: int) -> Policy:
        """Return the legal policy of decisions that is nearest to one width."""
        whole = self.constraints.uniform(bits)
        return Policy({name: whole[name] for name in self.constraints.decisions})

    @property
    def widest(self) -> Policy:
        """The policy of the widest legal widths."""
        return self.uniform(max(max(options) for options in self.constraints.options.values()))

    def uniforms(self) -> dict[str, Policy]:
        """Return every policy that is nearest to one width, widest first, by a label with the widths that it sets."""
        widths = sorted({bits for name in self.constraints.decisions for bits in self.constraints.options[name]})
        policies = dict.fromkeys(self.uniform(bits) for bits in reversed(widths))
        return {f"uniform {self._widths(policy)}": policy for policy in policies}

    def _widths(self, policy: Policy) -> str:
        """Return the widths of all quantizers that are not fixed, widest first."""
        whole, options = completed(self.constraints, policy), self.constraints.options
        found = {_widest(bits) for name, bits in whole.items() if len(options[name]) > 1}
        return "/".join(str(width) for width in sorted(found, reverse=True))

    def float_row(self, accuracy: float | None, disk_bytes: int | None) -> Row:
        """Return the row of the float network."""
        return Row("float", accuracy=accuracy, weight_bytes=float_bytes(self.network), disk_bytes=disk_bytes)

    def row(self, label: str, policy: Policy, agreement: Agreement | None, disk_bytes: int | None) -> Row:
        """Return the row of a policy of decisions; figures are missing where nothing was measured."""
        whole = completed(self.constraints, policy)
        sized = self.network.clone()
        apply_policy(sized, whole)
        worst = next(iter(agreement.outputs), None) if agreement is not None else None
        right = None if agreement is None else agreement.accuracy
        return Row(
            label,
            bits_text(policy),
            accuracy=None if right is None else right.quantized_right / right.samples,
            agreeing=worst.agreeing / worst.decisions if worst is not None and worst.decisions else None,
            sqnr=None if worst is None else worst.sqnr,
            cycles=self._total(policy, "cycles"),
            bit_operations=None if self._total(policy, "cycles") else self._total(policy, "bit_operations"),
            share=self._share(policy),
            weight_bytes=weight_bytes(sized),
            disk_bytes=disk_bytes,
            within=self.problem is None or not self.problem.violations(policy),
        )

    def layers(self, policy: Policy) -> tuple[Layer, ...]:
        """Return bits and cycles of every layer whose cost is known, in order."""
        before = {cost.node: cost for cost in self.table.rows(completed(self.constraints, self.widest))}
        after = self.table.rows(completed(self.constraints, policy))
        choices = self._choices()
        return tuple(
            Layer(
                now.node,
                now.activation_bits,
                now.weight_bits,
                before[now.node].cycles,
                now.cycles,
                now.bound_by,
                (before[now.node].cost.energy_pj, now.cost.energy_pj),
                (before[now.node].cost.total_bytes, now.cost.total_bytes),
                choices.get(now.node, ()),
            )
            for now in after
            if now.weight_bits is not None
        )

    def _choices(self) -> dict[str, tuple[tuple[int, int, float, str], ...]]:
        """Return what the product of each layer costs at every legal pair of widths."""
        return {
            row.name: tuple(
                (activation, weight, cost.cycles, cost.bound_by)
                for activation, costs in zip(row.activation_widths, row.costs, strict=True)
                for weight, cost in zip(row.weight_widths, costs, strict=True)
                if cost is not None
            )
            for row in self.table
            if row.known and row.part == "product"
        }

    def reference(self, policy: Policy) -> float | None:
        """Return what the first budget's cost is a share of; None without a budget."""
        if self.problem is None or not self.problem.budgets:
            return None
        name = next(iter(self.problem.budgets))
        return self.problem.cost(name, policy) / self.problem.ratio(name, policy)

    def _total(self, policy: Policy, metric: str) -> float | None:
        """Return a total of the nodes whose cost is known; None where the target tells nothing of it."""
        if not any(row.known for row in self.table):
            return None
        return float(self.table.cost([completed(self.constraints, policy)], metric, unknown="ignore")[0]) or None

    def _share(self, policy: Policy) -> float | None:
        """Return cycles, else bit operations, as a share of 8 bits everywhere; None where some are unknown."""
        name, metric = ("latency", "cycles") if self._total(self.widest, "cycles") else ("bops", "bit_operations")
        cost, widest = self._total(policy, metric), self._total(self.widest, metric)
        if self.table.unknown or not cost or not widest:
            return None
        return cost / widest if self.problem is None else self.problem.ratio(name, policy)


def bits_text(policy: Policy) -> str:
    """Return how many decisions are at which width, widest first: `2 at 8, 1 at 4`."""
    widths = [_widest(bits) for bits in policy.values()]
    return ", ".join(f"{widths.count(width)} at {width}" for width in sorted(set(widths), reverse=True))


def _widest(bits: Bits) -> int:
    return bits if isinstance(bits, int) else max(bits)


def _percent(share: float | None) -> str:
    return "" if share is None else f"{100 * share:.2f} %"


def _whole(number: float | None) -> str:
    return "" if number is None else f"{number:,.0f}"
