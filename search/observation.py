"""What a learning searcher sees and how rewards are scaled for it."""

from __future__ import annotations

from bisect import bisect_left, bisect_right, insort
from collections.abc import Sequence

import numpy as np

from qir.errors import SearchError
from qir.search.problem import Floats, Problem
from qir.search.tables import AdditiveCost


class RankedRewards:
    """Replaces rewards by the normal quantiles of their ranks among all rewards so far.

    Accuracies of collapsed policies differ by tens of points, those of good ones by tenths; ranks keep both visible. A
    failed policy counts as the worst.
    """

    def __init__(self) -> None:
        self._sorted: list[float] = []

    def normalised(self, raw: float) -> float:
        """Quantile of a reward, about -2.5 to 2.5; 0 for the first one."""
        from scipy.special import ndtri

        if np.isnan(raw):
            raw = self._sorted[0] if self._sorted else 0.0
        insort(self._sorted, raw)
        middle = 0.5 * (bisect_left(self._sorted, raw) + bisect_right(self._sorted, raw))
        return float(ndtri((middle + 1e-9) / (len(self._sorted) + 2e-9))) if len(self._sorted) > 1 else 0.0


class StepRewards:
    """Minus the sensitivity that one option adds, as a share of the median total of the episodes so far."""

    def __init__(self, problem: Problem) -> None:
        sensitivity = problem.tables.sensitivity
        assert sensitivity is not None  # noqa: S101 - the environment asks only problems that have one
        self._table = sensitivity.unary / sensitivity.scale
        legal = problem.tables.legal
        self._totals = [float(np.where(legal, self._table, 0.0).sum() / max(1, legal.sum()) * len(legal)) or 1.0]
        self._running = 0.0

    def reward(self, decision: int, option: int) -> float:
        """Reward of taking an option; at the last decision the episode's total joins the scale."""
        loss = float(self._table[decision, option])
        scale = float(np.median(self._totals[-32:])) or 1.0
        self._running += loss
        if decision == len(self._table) - 1:
            self._totals.append(self._running)
            self._running = 0.0
        return -loss / scale


def static_features(problem: Problem, features: Sequence[Sequence[float]] | Floats | None) -> Floats:
    """Features per decision, each column scaled to 0 to 1 over the decisions: [decisions, features].

    Without given features: position, number of options, and per option the ranks of its costs and sensitivity.

    Raises:
        SearchError: not one row of finite numbers per decision.
    """
    given = features if features is not None else problem.features
    table = _derived(problem) if given is None else np.asarray(given, dtype=np.float64)
    if table.ndim != 2 or len(table) != len(problem.decisions) or not np.isfinite(table).all():
        raise SearchError(
            f"features: shape {table.shape}; expected [{len(problem.decisions)} decisions, features], all finite"
        )
    low, high = table.min(0), table.max(0)
    span = np.where(high > low, high - low, 1.0)
    return np.asarray((table - low) / span, dtype=np.float64)


def _derived(problem: Problem) -> Floats:
    from scipy.stats import rankdata

    count = len(problem.decisions)
    tables = [_marginal(cost, problem) for cost in problem.tables.costs.values()]
    if problem.tables.sensitivity is not None:
        tables.append(problem.tables.sensitivity.unary)
    columns = [np.arange(count, dtype=np.float64), np.array([float(len(d.options)) for d in problem.decisions])]
    columns += [rankdata(column) for table in tables for column in table.T if np.ptp(column) > 0]
    return np.stack(columns, axis=1)


def _marginal(cost: AdditiveCost, problem: Problem) -> Floats:
    """Unary cost plus the mean of the pair costs over the other side [decisions, most options]."""
    table, legal = cost.unary.copy(), problem.tables.legal
    for (first, second), matrix in cost.pairs.items():
        table[first] += matrix[:, legal[second]].mean(1)
        table[second] += matrix[legal[first]].mean(0)
    return table
