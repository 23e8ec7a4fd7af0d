"""Backward tables: the cheapest way to complete every prefix of a walk over the decisions.

Decisions are eliminated from last to first. What a suffix may cost depends on the earlier decisions that a relation or
a pair cost joins to it, its frontier; of a chain that is one decision. With one budget a table holds one number per
assignment of the frontier, with several the non-dominated cost vectors ("labels"). Where a table would grow too large,
edges are relaxed or labels merged downwards: the tables are then lower bounds and `exact` is False.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Protocol

import numpy as np

from qir.search.problem.parts import Floats
from qir.search.problem.tables import Bools, Edge, Tables

_LARGEST_TABLE = 4096
_MOST_LABELS = 48

Key = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class _Step:
    """Terms of one decision as the tables see them: costs [budgets, options] and edges to earlier decisions."""

    unary: Floats
    edges: tuple[tuple[int, Floats, Bools], ...]
    legal: Bools


class Terms(Protocol):
    """A sum of unary and pair terms, as `AdditiveCost` holds them."""

    @property
    def unary(self) -> Floats:
        """[decisions, most options]."""

    @property
    def pairs(self) -> Mapping[Edge, Floats]:
        """Edge (first < second) -> [most options, most options]."""

    @property
    def fixed(self) -> float:
        """What no decision changes."""


class Elimination:
    """Tables of one or more additive costs, from the last decision to the first.

    Args:
        tables: arrays of the problem.
        costs: the costs.

    Attributes:
        exact: nothing was relaxed or merged.
    """

    def __init__(self, tables: Tables, costs: Sequence[Terms]) -> None:
        self._tables, self._costs = tables, list(costs)
        self.exact = True
        relaxed = self._relaxed_edges()
        self._real = [self._step(t, frozenset()) for t in range(len(tables.sizes))]
        steps = [self._step(t, relaxed) for t in range(len(tables.sizes))] if relaxed else self._real
        self._frontiers = frontiers(len(tables.sizes), tables.edges() - relaxed)
        self._labels = self._eliminate(steps)
        self._start = np.array([cost.fixed for cost in self._costs])
        self._trail: list[tuple[int, Floats]] = []

    def spent(self, prefix: Sequence[int]) -> Floats:
        """Return scaled costs [costs] of the decisions taken so far."""
        trail, known = self._trail, 0
        while known < min(len(trail), len(prefix)) and trail[known][0] == prefix[known]:
            known += 1
        del trail[known:]
        spent = trail[-1][1] if trail else self._start
        for t in range(known, len(prefix)):
            spent = spent + self._step_cost(t, prefix)[:, prefix[t]]
            trail.append((prefix[t], spent))
        return spent

    def labels(self, prefix: Sequence[int]) -> Floats:
        """Return what a completion of a prefix adds: [labels, costs], scaled."""
        t = len(prefix)
        return self._labels[t][tuple(prefix[i] for i in self._frontiers[t])]

    def allowed(self, prefix: Sequence[int]) -> bool:
        """Return whether the last option of a prefix breaks no relation with those before it."""
        last = len(prefix) - 1
        return last < 0 or all(ok[prefix[earlier], prefix[last]] for earlier, _, ok in self._real[last].edges)

    def _step_cost(self, t: int, prefix: Sequence[int]) -> Floats:
        step = self._real[t]
        cost = step.unary
        for earlier, matrix, _ in step.edges:
            cost = cost + matrix[:, prefix[earlier]]
        return cost

    def _relaxed_edges(self) -> frozenset[Edge]:
        edges, sizes = self._tables.edges(), self._tables.legal.sum(1)
        relaxed: set[Edge] = set()
        while True:
            kept = edges - relaxed
            ahead = frontiers(len(sizes), kept)
            widest = max(ahead, key=lambda f: float(np.prod(sizes[list(f)], dtype=np.float64)) if f else 1.0)
            if not widest or np.prod(sizes[list(widest)], dtype=np.float64) <= _LARGEST_TABLE:
                return frozenset(relaxed)
            self.exact = False
            relaxed.add(max((e for e in kept if e[0] in widest), key=lambda e: (e[1] - e[0], e)))

    def _step(self, t: int, relaxed: frozenset[Edge]) -> _Step:
        tables = self._tables
        width = tables.legal.shape[1]
        unary = np.array([cost.unary[t] for cost in self._costs]).reshape(len(self._costs), width)
        edges, legal = [], tables.legal[t].copy()
        for edge in sorted(e for e in tables.edges() if e[1] == t):
            matrix = np.array([_pair(cost, edge, width) for cost in self._costs]).reshape(-1, width, width)
            allowed = tables.relations.get(edge, np.ones((width, width), dtype=bool))
            if edge in relaxed:
                rows = tables.legal[edge[0]]
                unary = unary + np.where(allowed[rows], matrix[:, rows], np.inf).min(1)
                legal &= allowed[rows].any(0)
            else:
                edges.append((edge[0], matrix, allowed))
        return _Step(unary, tuple(edges), legal)

    def _eliminate(self, steps: Sequence[_Step]) -> list[dict[Key, Floats]]:
        count = len(steps)
        tables: list[dict[Key, Floats]] = [{} for _ in range(count + 1)]
        tables[count][()] = np.zeros((1, len(self._costs)))
        for t in range(count - 1, -1, -1):
            domains = [np.flatnonzero(self._tables.legal[i]) for i in self._frontiers[t]]
            for values in product(*domains):
                key = tuple(int(v) for v in values)
                given = dict(zip(self._frontiers[t], key, strict=True))
                tables[t][key] = self._merge(list(self._extensions(t, steps[t], given, tables[t + 1])))
        return tables

    def _extensions(self, t: int, step: _Step, given: dict[int, int], later: dict[Key, Floats]) -> Iterator[Floats]:
        cost, legal = step.unary, step.legal
        for earlier, matrix, allowed in step.edges:
            cost = cost + matrix[:, given[earlier]]
            legal = legal & allowed[given[earlier]]
        for option in np.flatnonzero(legal):
            yield cost[:, option] + later[tuple(int(option) if i == t else given[i] for i in self._frontiers[t + 1])]

    def _merge(self, found: list[Floats]) -> Floats:
        """Return the labels of a state from those of its options: the least of every cost on its own."""
        labels = np.concatenate(found) if found else np.zeros((0, len(self._costs)))
        return np.asarray(labels.min(0, keepdims=True)) if len(labels) > 1 else labels


class Completion(Elimination):
    """Which options of the next decision leave a completion that meets every relation and every additive budget.

    Attributes:
        exact: the answer is exact; otherwise an option that is called illegal is illegal, but one that is called legal
            may lead to a dead end.
    """

    def __init__(self, tables: Tables, budgets: Sequence[str] | None = None) -> None:
        names = tables.additive_budgets if budgets is None else tuple(budgets)
        self._limits = np.array([tables.scaled_limit(name) if name in tables.limits else np.inf for name in names])
        self._scales = np.array([tables.costs[name].scale for name in names])
        super().__init__(tables, [tables.costs[name] for name in names])
        self._spans = self._rest_spans()

    @property
    def feasible(self) -> bool:
        """Some policy meets everything (if `exact`; otherwise none is ruled out)."""
        return bool((self._start + self._labels[0][()] <= self._limits).all(1).any())

    def smallest(self) -> Floats:
        """Return the smallest cost of any policy, per budget on its own, in the unit of that cost."""
        low = (self._start + self._labels[0][()]).min(0, initial=np.inf)
        return np.asarray(low / self._scales, dtype=np.float64)

    def options(self, prefix: Sequence[int], spent: Floats | None = None) -> Bools:
        """Return which options [most options] of decision `len(prefix)` are legal.

        Args:
            prefix: option indices taken so far.
            spent: `spent(prefix)`, if the caller has it.
        """
        t = len(prefix)
        step, frontier = self._real[t], self._frontiers[t + 1]
        legal = step.legal.copy()
        for earlier, _, allowed in step.edges:
            legal &= allowed[prefix[earlier]]
        costs = (self.spent(prefix) if spent is None else spent)[:, None] + self._step_cost(t, prefix)
        table = self._labels[t + 1]
        for option in np.flatnonzero(legal):
            labels = table[tuple(int(option) if i == t else prefix[i] for i in frontier)]
            legal[option] = (costs[:, option] + labels <= self._limits).all(1).any()
        return legal

    def extended(self, prefix: Sequence[int], spent: Floats, option: int) -> Floats:
        """Return scaled costs [budgets] after one more decision."""
        return np.asarray(spent + self._step_cost(len(prefix), prefix)[:, option])

    def slack(self, prefix: Sequence[int]) -> tuple[float, float]:
        """Return what is left of the tightest budget when the prefix is completed as cheaply as possible.

        Returns:
            As a share of the budget, and as a share of what the rest could spend at most; both 0 to 1.
        """
        if not self._costs:
            return 1.0, 1.0
        labels = self.labels(prefix)
        if not len(labels):
            return 0.0, 0.0
        left = self._limits - self.spent(prefix) - labels.min(0)
        of_budget = left / np.maximum(np.abs(self._limits), 1e-12)
        of_rest = left / np.maximum(self._spans[len(prefix)], 1e-12)
        return float(np.clip(of_budget.min(), 0.0, 1.0)), float(np.clip(of_rest.min(), 0.0, 1.0))

    def _rest_spans(self) -> Floats:
        """Return at most what the decisions from t on can add beyond the least: [decisions + 1, budgets]."""
        spans = np.zeros((len(self._real) + 1, len(self._costs)))
        for t in range(len(self._real) - 1, -1, -1):
            step = self._real[t]
            spans[t] = spans[t + 1] + np.ptp(step.unary[:, step.legal], axis=1)
            for _, matrix, _ in step.edges:
                spans[t] += np.ptp(matrix[:, step.legal], axis=(1, 2))
        return spans

    def _merge(self, found: list[Floats]) -> Floats:
        if len(self._costs) <= 1:
            return super()._merge(found)
        labels = np.concatenate(found) if found else np.zeros((0, len(self._costs)))
        if len(labels) <= 1:
            return labels
        labels = non_dominated(labels)
        if len(labels) > _MOST_LABELS:
            self.exact = False
            groups = np.array_split(labels, _MOST_LABELS)
            labels = np.array([group.min(0) for group in groups])
        return labels


def non_dominated(points: Floats) -> Floats:
    """Return rows [points, dimensions] that no other row equals or betters in every column, sorted by column."""
    ordered: Floats = np.asarray(np.unique(points, axis=0))
    kept = np.ones(len(ordered), dtype=bool)
    if points.shape[1] == 2:
        best = np.minimum.accumulate(ordered[:, 1])
        kept[1:] = ordered[1:, 1] < best[:-1]
        return np.asarray(ordered[kept])
    for i in range(len(ordered)):
        if kept[i]:
            kept[i + 1 :] &= (ordered[i + 1 :] < ordered[i]).any(1)
    return np.asarray(ordered[kept])


def _pair(cost: Terms, edge: Edge, width: int) -> Floats:
    return cost.pairs.get(edge, np.zeros((width, width)))


def frontiers(count: int, edges: set[Edge]) -> list[tuple[int, ...]]:
    """Per step t, the decisions before t that an edge joins to t or later."""
    return [tuple(sorted({a for a, b in edges if a < t <= b})) for t in range(count + 1)]
