"""Random policies, none twice: the baseline of every search."""

from __future__ import annotations

from collections.abc import Iterator
from math import prod

import numpy as np

from qir.search.problem.completion import Completion
from qir.search.problem.parts import Indices
from qir.search.problem.problem import Problem
from qir.search.solvers.exhaustive import feasible_rows
from qir.search.solvers.run import Outcome, Run

_ENUMERABLE = 200_000
_BATCH = 16
_ROUND = 4096
_RARE = 20_000


class Sampler:
    """Draws feasible policies, each one at most once.

    Small spaces are enumerated and shuffled: exactly uniform. Larger ones are drawn uniformly among the policies that
    meet the relations (by counting completions backward) and kept if they meet the budgets: uniform too. Where such
    draws hardly ever meet the budgets, decisions are drawn one by one among the options that leave a feasible
    completion: not uniform (`uniform` is False).
    """

    def __init__(self, problem: Problem, completion: Completion, generator: np.random.Generator) -> None:
        self._problem, self._completion, self._generator = problem, completion, generator
        self._seen: set[tuple[int, ...]] = set()
        self.uniform = True

    def draw(self) -> Iterator[tuple[int, ...]]:
        """Yield feasible rows of option indices, none twice; ends when a small space is used up."""
        if enumerable(self._problem):
            rows = np.concatenate(list(feasible_rows(self._problem)))
            yield from (tuple(int(i) for i in row) for row in self._generator.permutation(rows))
            return
        yield from self._by_rejection()
        self.uniform = False
        yield from self._by_walk()

    def _by_rejection(self) -> Iterator[tuple[int, ...]]:
        counter = RelationCounter(self._problem)
        missed = 0
        while missed < _RARE and counter.exact:
            rows = counter.draw(_ROUND, self._generator)
            fresh = list(self._fresh(rows[self._problem.feasible(rows)]))
            missed = 0 if fresh else missed + _ROUND
            yield from fresh

    def _by_walk(self) -> Iterator[tuple[int, ...]]:
        barren = 0
        while barren < _RARE:
            row = walk(self._completion, len(self._problem.decisions), self._generator)
            fresh = list(self._fresh(np.array([row]))) if row and self._problem.feasible(np.array([row]))[0] else []
            barren = 0 if fresh else barren + 1
            yield from fresh

    def _fresh(self, rows: Indices) -> Iterator[tuple[int, ...]]:
        for row in rows:
            key = tuple(int(i) for i in row)
            if key not in self._seen:
                self._seen.add(key)
                yield key


def enumerable(problem: Problem) -> bool:
    """Return whether the space is small enough to list."""
    return prod(int(n) for n in problem.tables.legal.sum(1)) <= _ENUMERABLE


class RelationCounter:
    """Draws policies uniformly among those that meet the relations, on forests of relations.

    Attributes:
        exact: the relations form no cycle, so that counting is exact.
    """

    def __init__(self, problem: Problem) -> None:
        tables = problem.tables
        self._legal, self._relations = tables.legal, tables.relations
        count, width = tables.legal.shape
        parents: dict[int, list[int]] = {}
        for first, second in sorted(tables.relations):
            parents.setdefault(second, []).append(first)
        self.exact = all(len(earlier) == 1 for earlier in parents.values())
        self._parent = {second: earlier[0] for second, earlier in parents.items()}
        self._weight = tables.legal.astype(np.float64)
        for second in range(count - 1, -1, -1):
            self._weight[second] /= self._weight[second].sum()
            if second in self._parent:
                first = self._parent[second]
                self._weight[first] *= tables.relations[first, second].astype(np.float64) @ self._weight[second]
        self._width = width

    def draw(self, number: int, generator: np.random.Generator) -> Indices:
        """Return rows of option indices [number, decisions]."""
        rows = np.zeros((number, len(self._legal)), dtype=np.intp)
        for d in range(len(self._legal)):
            weights = np.broadcast_to(self._weight[d], (number, self._width))
            if d in self._parent:
                first = self._parent[d]
                weights = weights * self._relations[first, d][rows[:, first]]
            edges = np.cumsum(weights, axis=1)
            rows[:, d] = (generator.random(number)[:, None] * edges[:, -1:] >= edges).sum(1)
        return rows


def walk(completion: Completion, length: int, generator: np.random.Generator) -> tuple[int, ...] | None:
    """Return one policy, drawn decision by decision among the options that leave a feasible completion.

    None at a dead end.
    """
    prefix: list[int] = []
    for _ in range(length):
        legal = np.flatnonzero(completion.options(prefix))
        if not len(legal):
            return None
        prefix.append(int(generator.choice(legal)))
    return tuple(prefix)


def random(run: Run) -> Outcome:
    """Measure random feasible policies without repeats; without a limit, all of a small space.

    Raises:
        SearchError: neither evaluations nor time are limited, and the space is large.
    """
    if not enumerable(run.problem):
        run.require_end("random")
    sampler = Sampler(run.problem, run.completion, run.generator)
    batch: list[tuple[int, ...]] = []
    for row in sampler.draw():
        batch.append(row)
        if len(batch) >= min(_BATCH, run.ledger.remaining):
            run.ledger.score_all(batch)
            batch = []
        if not run.ledger.remaining:
            break
    if batch and run.ledger.remaining:
        run.ledger.score_all(batch)
    return Outcome(notes=() if sampler.uniform else ("not uniform: hardly any random policy meets the budgets",))
