"""The closing table: rows that share calibration, correction, final retraining, seeds and splits, tested once."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from qir.module import Module
from qir.policy import Bits
from qir.search.evaluation.accuracy import AccuracyObjective, Samples, accuracy_of, standard_error
from qir.search.problem.problem import Problem
from qir.tensor import Tensor


@dataclass(frozen=True, slots=True)
class ComparisonRow:
    """One network of the table.

    Attributes:
        label: what it is.
        policy: bits per decision as text, empty for the float network.
        accuracy: on the test split, 0 to 1.
        error: standard error of the accuracy.
        ratio: cost of the budget as a share of its reference; None for the float network.
        within: whether the cost meets the budget.
        weight_bytes: packed integer weights (float32 weights of the float network), without scales.
    """

    label: str
    policy: str
    accuracy: float
    error: float
    ratio: float | None
    within: bool
    weight_bytes: int

    def cells(self) -> tuple[str, ...]:
        """Return the row as text."""
        ratio = "" if self.ratio is None else f"{self.ratio:.3f}" + ("" if self.within else " over budget")
        return (
            self.label,
            self.policy,
            f"{100 * self.accuracy:.2f} ± {100 * self.error:.2f}",
            ratio,
            f"{self.weight_bytes:,}",
        )


HEADINGS = ("network", "input bits per layer", "test accuracy %", "latency ratio", "weight bytes")


class Comparison:
    """Finalizes policies with one protocol and tests each network once.

    Args:
        objective: measures; its network is calibrated.
        problem: costs and the budget.
        budget: name of the cost that the table shows.
        test: samples of the test split.
        finish: from bits of decisions to the finished network, all by one protocol.
    """

    def __init__(
        self,
        objective: AccuracyObjective,
        problem: Problem,
        budget: str,
        test: Samples,
        finish: Callable[[Mapping[str, Bits]], Module],
    ) -> None:
        self.objective, self.problem, self.budget = objective, problem, budget
        self.test, self.finish = test, finish
        self.rows: list[ComparisonRow] = []
        self._finished: dict[tuple[tuple[str, Bits], ...], tuple[Module, float]] = {}

    def add_float(self) -> None:
        """Add the float network before quantization."""
        network = self.objective.network
        self.objective.reset()
        with network.quantizers_off():
            accuracy = self.objective.accuracy(self.test)
        size = float_bytes(self.objective.module)
        self._append("fp32", "", accuracy, None, size)

    def add(self, label: str, decided: Mapping[str, Bits] | int) -> None:
        """Add a policy, or one width for every decision: finished, tested; equal policies are tested once."""
        from qir.backends.torch.module import TorchModule

        if isinstance(decided, int):
            decided = dict.fromkeys(self.objective.constraints.decisions, decided)
        key = tuple(sorted(decided.items()))
        if key not in self._finished:
            made = self.finish(decided)
            self._finished[key] = (made, accuracy_of(TorchModule(made), self.test))
        made, accuracy = self._finished[key]
        self._append(
            label,
            "/".join(str(decided[name]) for name in self.objective.constraints.decisions),
            accuracy,
            decided,
            weight_bytes(made),
        )

    def table(self) -> list[tuple[str, ...]]:
        """Return headings, then the rows as text."""
        return [HEADINGS, *(row.cells() for row in self.rows)]

    def verdict(self) -> str:
        """Say whether the last row is the most accurate within the budget; empty where no row is within it."""
        quantized = [row for row in self.rows if row.ratio is not None and row.within]
        if not quantized:
            return ""
        best, found = max(quantized, key=lambda row: row.accuracy), quantized[-1]
        if found.accuracy >= best.accuracy:
            return f"{found.label}: nothing within the budget is more accurate"
        gap, error = best.accuracy - found.accuracy, math.hypot(best.error, found.error)
        errors = f"{gap / error:.1f} standard errors"
        return f"{found.label}: {best.label} is more accurate by {100 * gap:.2f} points ({errors})"

    def __rich__(self) -> Any:
        """Show the rows, with the sentence of `verdict` below them."""
        from rich.console import Group
        from rich.table import Table

        shown = Table(title=f"{self.test.split}: {len(self.test.labels):,} images, measured once")
        for heading in HEADINGS:
            shown.add_column(heading, justify="left" if heading == HEADINGS[0] else "right")
        for row in self.rows:
            shown.add_row(*row.cells())
        return Group(*(part for part in (shown, self.verdict()) if part))

    def _append(self, label: str, policy: str, accuracy: float, decided: Mapping[str, Bits] | None, size: int) -> None:
        ratio = None if decided is None else self.problem.ratio(self.budget, decided)
        within = decided is None or not self.problem.violations(decided)
        error = standard_error(accuracy, len(self.test.labels))
        self.rows.append(ComparisonRow(label, policy, accuracy, error, ratio, within, size))


def _weights(module: Module) -> dict[str, Tensor]:
    sources = {node.name: node.operand(0) for node in module.graph.fake_quants()}
    return {
        name: source.constant for name, source in sources.items() if source.is_constant and source.constant is not None
    }


def float_bytes(module: Module) -> int:
    """Return bytes of the same weights in float32."""
    return 4 * sum(tensor.size for tensor in _weights(module).values())


def weight_bytes(module: Module) -> int:
    """Return bytes of packed integer weights at the module's bits, those of kernels that compute in float too."""
    from qir.fake_quant import policy_of

    policy = policy_of(module.graph)
    found = ((tensor.size, policy[name]) for name, tensor in _weights(module).items())
    return sum(-(-size * bits // 8) for size, bits in found if isinstance(bits, int))
