"""What a learning searcher sees and how rewards are scaled for it."""

from __future__ import annotations

from bisect import bisect_left, bisect_right, insort
from collections.abc import Sequence

import numpy as np

from qir.errors import SearchError
from qir.search.environment.potential import Potential
from qir.search.problem.enforcement import bits_of
from qir.search.problem.parts import Floats
from qir.search.problem.problem import Problem
from qir.search.problem.tables import AdditiveCost, Edge

_LEAST_SHARE = 1e-3
_WORST = -10.0
"""Reward of an option that leaves no completion, or a far worse one."""


class RankedRewards:
    """Replaces rewards by the normal quantiles of their ranks among all rewards so far.

    Accuracies of collapsed policies differ by tens of points, those of good ones by tenths; ranks keep both visible. A
    failed policy counts as the worst.
    """

    def __init__(self) -> None:
        self._sorted: list[float] = []

    def normalised(self, raw: float) -> float:
        """Return the quantile of a reward, about -2.5 to 2.5; 0 for the first one."""
        from scipy.special import ndtri

        if np.isnan(raw):
            raw = self._sorted[0] if self._sorted else 0.0
        insort(self._sorted, raw)
        middle = 0.5 * (bisect_left(self._sorted, raw) + bisect_right(self._sorted, raw))
        return float(ndtri((middle + 1e-9) / (len(self._sorted) + 2e-9))) if len(self._sorted) > 1 else 0.0


class QuantizationState:
    """ReLeQ's state of quantization (section 2.4): bits over the most bits, weighted by `importance`.

    Attributes:
        least: of the narrowest options.
    """

    def __init__(self, problem: Problem) -> None:
        counts = np.ones(len(problem.decisions)) if problem.importance is None else np.asarray(problem.importance)
        bits = [np.array([bits_of(option) for option in d.options]) for d in problem.decisions]
        most = max(float(line.max()) for line, count in zip(bits, counts, strict=True) if count)
        self._shares = [count * line / (counts.sum() * most) for count, line in zip(counts, bits, strict=True)]
        self.least = float(sum(line.min() for line in self._shares))

    def of(self, prefix: Sequence[int]) -> float:
        """Return the state after these options were taken, every other decision at its widest."""
        taken = sum(float(line[option]) for line, option in zip(self._shares, prefix, strict=False))
        return taken + sum(float(line.max()) for line in self._shares[len(prefix) :])


class StepRewards:
    """Minus what an option costs in reachable sensitivity: how much it raises the bound of `Potential`.

    Shaping by a potential leaves the best policy as it is (Ng et al., 1999). A step's rise is taken as log(1 + rise /
    mean share of a decision in the bound of the whole problem), as rises differ by orders of magnitude.
    """

    def __init__(self, problem: Problem) -> None:
        self._potential = Potential(problem.tables)
        least = max(self._potential.least(()), _LEAST_SHARE * self._potential.span, 1e-300)
        self._share = least / len(problem.decisions)
        self._seen: tuple[tuple[int, ...], list[float]] = ((-1,), [])

    def reward(self, prefix: Sequence[int]) -> float:
        """Return the reward of the last option of a prefix."""
        return self.outlook(prefix[:-1])[prefix[-1]]

    def outlook(self, prefix: Sequence[int]) -> list[float]:
        """Return what each option of the next decision would be rewarded with [most options].

        Zeros after the last one.
        """
        key = tuple(prefix)
        if key != self._seen[0]:
            self._seen = (key, self._rewards(key))
        return self._seen[1]

    def _rewards(self, prefix: tuple[int, ...]) -> list[float]:
        legal = self._potential.legal(len(prefix))
        if not legal.any():
            return [0.0] * len(legal)
        before = self._potential.least(prefix)
        rewards = [_WORST] * len(legal)
        for option in np.flatnonzero(legal):
            rise = max(0.0, self._potential.least((*prefix, int(option))) - before) / self._share
            rewards[int(option)] = max(_WORST, -float(np.log1p(rise)))
        return rewards


def static_features(
    problem: Problem, features: Sequence[Sequence[float]] | Floats | None, *, derived: bool = False
) -> Floats:
    """Return features per decision, each column scaled to 0 to 1 over the decisions: [decisions, features].

    Without given features, or next to them with `derived`: position, number of options, per option the ranks of its
    costs and sensitivity and the logarithms of its sensitivity and budgeted costs; and the means of the latter over the
    decisions that a relation or a pair cost joins, earlier and later ones apart.

    Raises:
        SearchError: not one row of finite numbers per decision.
    """
    given = features if features is not None else problem.features
    parts = [] if given is None else [np.asarray(given, dtype=np.float64)]
    if parts and (parts[0].ndim != 2 or len(parts[0]) != len(problem.decisions) or not np.isfinite(parts[0]).all()):
        raise SearchError(
            f"features: shape {parts[0].shape}; expected [{len(problem.decisions)} decisions, features], all finite"
        )
    if derived or not parts:
        parts.append(_derived(problem))
    table = np.concatenate(parts, axis=1)
    low, high = table.min(0), table.max(0)
    span = np.where(high > low, high - low, 1.0)
    return np.asarray((table - low) / span, dtype=np.float64)


def _derived(problem: Problem) -> Floats:
    from scipy.stats import rankdata

    count, tables = len(problem.decisions), problem.tables
    costs = {name: _marginal(cost, problem) for name, cost in tables.costs.items()}
    ranked = [*costs.values(), *([] if tables.sensitivity is None else [tables.sensitivity.unary])]
    columns = [np.arange(count, dtype=np.float64), np.array([float(len(d.options)) for d in problem.decisions])]
    columns += [rankdata(column) for table in ranked for column in table.T if np.ptp(column) > 0]
    own = np.stack(columns, axis=1)
    if tables.sensitivity is None:
        return own
    sizes = np.concatenate([tables.sensitivity.unary, *(costs[name] for name in tables.additive_budgets)], axis=1)
    logarithms = np.log10(np.maximum(sizes, 1e-12 * max(float(sizes.max()), 1e-300)))
    return np.concatenate([own, logarithms, *_of_neighbours(logarithms, tables.edges())], axis=1)


def _of_neighbours(table: Floats, edges: set[Edge]) -> list[Floats]:
    """Return means of rows over the joined decisions before and after each decision; zeros where there are none."""
    if not edges:
        return []
    found = []
    for here, there in ((1, 0), (0, 1)):
        joined = np.zeros((len(table), len(table)))
        for edge in edges:
            joined[edge[here], edge[there]] = 1.0
        found.append(joined @ table / np.maximum(joined.sum(1, keepdims=True), 1.0))
    return found


def _marginal(cost: AdditiveCost, problem: Problem) -> Floats:
    """Return unary cost plus the mean of the pair costs over the other side [decisions, most options]."""
    table, legal = cost.unary.copy(), problem.tables.legal
    for (first, second), matrix in cost.pairs.items():
        table[first] += matrix[:, legal[second]].mean(1)
        table[second] += matrix[legal[first]].mean(0)
    return table
