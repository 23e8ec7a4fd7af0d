"""One policy that changes step by step: what every step would change is kept up to date, not computed anew."""

from __future__ import annotations

from collections.abc import Iterable
from functools import cached_property
from itertools import chain

import numpy as np

from qir.errors import SearchError
from qir.search.problem.moves import Widths, followed
from qir.search.problem.parts import Floats, Indices
from qir.search.problem.problem import Problem
from qir.search.problem.tables import AdditiveCost
from qir.search.solvers.run import Row

_LEAST = 1e-12
"""Share of a total that counts as a change of it."""


class Climb:
    """A policy, and the steps to its neighbours: one decision changes, and what relations make follow.

    A step touches a few terms of a cost; after it, only the steps that read one of the decisions it changed are
    computed again. So a walk of n steps over n decisions takes n times some, where totals of whole policies take n^3.

    Args:
        problem: budgets are those on additive costs.
        widths: its options as numbers.
        sensitivity: what is to be low.
        row: option indices of a policy that keeps the relations.
    """

    def __init__(self, problem: Problem, widths: Widths, sensitivity: AdditiveCost, row: Row) -> None:
        tables = problem.tables
        self._problem, self._widths, self._row = problem, widths, list(row)
        names = tables.additive_budgets
        costs = [tables.costs[name] for name in names]
        self._terms = [_Terms(cost, len(row)) for cost in (sensitivity, *costs)]
        self._limits = np.array([tables.scaled_limit(name) for name in names])
        self._rounding = np.array([4 * cost.tolerance for cost in costs])
        self._units = np.array([max(abs(float(tables.limits[n])), _LEAST) * tables.costs[n].scale for n in names])
        self._asked = np.array([float(tables.limits[n]) * tables.costs[n].scale for n in names])
        self._steps = [(d, int(o)) for d, legal in enumerate(tables.legal) for o in np.flatnonzero(legal)]
        self._changes: list[dict[int, int] | None] = [None] * len(self._steps)
        self._reads: list[set[int]] = [set() for _ in self._steps]
        self._readers: list[set[int]] = [set() for _ in row]
        self._delta = np.zeros((len(self._terms), len(self._steps)))
        self._open = np.zeros(len(self._steps), dtype=bool)
        self._totals = np.array([float(c.scaled_total(np.array([row]))[0]) for c in (sensitivity, *costs)])
        self._refresh(range(len(self._steps)))

    @property
    def row(self) -> Row:
        """Option indices of the policy."""
        return tuple(self._row)

    @property
    def loss(self) -> float:
        """Its sensitivity, scaled."""
        return float(self._totals[0])

    @property
    def feasible(self) -> bool:
        """Whether it meets the budgets, in exact arithmetic."""
        over = self._totals[1:] - self._limits
        if (over > 0).any():
            return False
        return bool((over <= -self._rounding).all()) or self._is_feasible(self._row)

    def fill(self) -> None:
        """Take the step that lowers the sensitivity most within the budgets, as long as there is one."""
        while (step := self._lowering()) is not None:
            self.take(step)

    def descend(self) -> bool:
        """Take the step with the least loss per cost saved; False where no step saves any."""
        excess = self._excess(np.zeros((len(self._limits), 1)))
        saved = excess - self._excess(self._delta[1:])
        useful = np.flatnonzero(self._open & (saved > _LEAST * excess))
        if not len(useful):
            return False
        self.take(self._first(useful, self._delta[0, useful] / saved[useful]))
        return True

    def take(self, step: int) -> None:
        """Change the policy."""
        changes = self._changes[step]
        if changes is None:
            raise SearchError(f"step {step} is not open: it leads to no legal policy")
        self._totals += self._delta[:, step]
        for decision, option in changes.items():
            self._row[decision] = option
        self._refresh(set(chain.from_iterable(self._readers[decision] for decision in changes)))

    def promising(self, most: int) -> list[tuple[int, int]]:
        """Decision and option of the steps that lower the sensitivity most, budgets aside."""
        order = np.argsort(np.where(self._open, self._delta[0], np.inf), kind="stable")[:most]
        return [self._steps[step] for step in order if self._open[step] and self._delta[0, step] < 0]

    def set_option(self, decision: int, option: int) -> bool:
        """Take the step that sets an option; False where there is none."""
        step = self._steps.index((decision, option))
        if self._open[step]:
            self.take(step)
        return bool(self._open[step]) or self._row[decision] == option

    def reset(self, row: Row) -> None:
        """Go to another policy."""
        different = [decision for decision, option in enumerate(row) if self._row[decision] != option]
        self._row = list(row)
        self._totals = np.array([terms.total(self._row) for terms in self._terms])
        self._refresh(set(chain.from_iterable(self._readers[decision] for decision in different)))

    def _lowering(self) -> int | None:
        loss = self._delta[0]
        good = self._open & (loss < -_LEAST * abs(self._totals[0]))
        over = self._totals[1:, None] + self._delta[1:] - self._limits[:, None]
        good &= (over <= 0).all(axis=0)
        near = (over > -self._rounding[:, None]).any(axis=0)
        while good.any():
            found = np.flatnonzero(good)
            step = self._first(found, loss[found])
            if not near[step] or self._is_feasible(self._after(step)):
                return step
            good[step] = False
        return None

    def _excess(self, delta: Floats) -> Floats:
        """By how much costs are over their budgets after steps, as a share of each budget, summed: [steps]."""
        over = (self._totals[1:, None] + delta - self._asked[:, None]) / self._units[:, None]
        return np.asarray(np.maximum(0.0, over).sum(axis=0))

    def _first(self, steps: Indices, values: Floats) -> int:
        """Return the step of least value.

        Of equals the one that leads to the first policy in order of option indices.
        """
        least = values.min()
        equal = steps[values <= least + _LEAST * abs(least)]
        return int(equal[0]) if len(equal) == 1 else int(min(equal, key=self._order))

    def _order(self, step: int) -> tuple[int, ...]:
        """Sort policies after steps as their rows of option indices are sorted."""
        changes = sorted((self._changes[step] or {}).items())
        decision, option = next((d, o) for d, o in changes if o != self._row[d])
        lower = option < self._row[decision]
        return (0, decision, option) if lower else (1, -decision, option)

    def _after(self, step: int) -> list[int]:
        row = list(self._row)
        for decision, option in (self._changes[step] or {}).items():
            row[decision] = option
        return row

    def _is_feasible(self, row: list[int]) -> bool:
        return bool(self._problem.tables.feasible(np.array([row]))[0])

    def _refresh(self, steps: Iterable[int]) -> None:
        for step in steps:
            self._compute(step)

    def _compute(self, step: int) -> None:
        decision, option = self._steps[step]
        changes, reads = followed(self._problem, self._widths, self._row, decision, option)
        self._open[step] = changes is not None and option != self._row[decision]
        self._changes[step] = changes
        if changes is not None:
            for index, terms in enumerate(self._terms):
                self._delta[index, step] = terms.change(self._row, changes)
                for changed in changes:
                    reads.update(terms.partners[changed])
        for read in self._reads[step] - reads:
            self._readers[read].discard(step)
        for read in reads - self._reads[step]:
            self._readers[read].add(step)
        self._reads[step] = reads


class _Terms:
    """The terms of an additive cost, by decision."""

    def __init__(self, cost: AdditiveCost, count: int) -> None:
        self._fixed, self._unary = cost.fixed, cost.unary.tolist()
        self._pairs: list[list[tuple[int, list[list[float]]]]] = [[] for _ in range(count)]
        for (first, second), matrix in cost.pairs.items():
            self._pairs[first].append((second, matrix.tolist()))
            self._pairs[second].append((first, matrix.T.tolist()))

    @cached_property
    def partners(self) -> list[frozenset[int]]:
        """Decisions that share a term with each decision."""
        return [frozenset(other for other, _ in pairs) for pairs in self._pairs]

    def total(self, row: list[int]) -> float:
        """Return the whole sum."""
        total = self._fixed + sum(self._unary[decision][option] for decision, option in enumerate(row))
        for decision, pairs in enumerate(self._pairs):
            total += sum(matrix[row[decision]][row[other]] for other, matrix in pairs if other > decision)
        return float(total)

    def change(self, row: list[int], changes: dict[int, int]) -> float:
        """Return what a step adds to the sum."""
        added = 0.0
        for decision, option in changes.items():
            before = row[decision]
            added += self._unary[decision][option] - self._unary[decision][before]
            for other, matrix in self._pairs[decision]:
                if other in changes and other < decision:
                    continue
                there = row[other]
                added += matrix[option][changes.get(other, there)] - matrix[before][there]
        return added
