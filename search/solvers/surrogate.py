"""Model-guided search: a Gaussian process over policies proposes what to measure next.

The covariance of two policies is a weighted sum of an additive part (decisions act on their own), an interacting part
(only policies that agree nearly everywhere resemble each other) and, where the problem has a sensitivity, a linear part
in it. Weights, length scales and noise are those of a small grid with the greatest marginal likelihood. Values are
replaced by the normal quantiles of their ranks, so that collapsed policies do not drown the good ones.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product
from math import prod

import numpy as np

from qir.search.problem.moves import Widths, neighbours
from qir.search.problem.parts import Floats, Indices
from qir.search.solvers.exhaustive import feasible_rows
from qir.search.solvers.milp import least_sensitive
from qir.search.solvers.random import Sampler
from qir.search.solvers.run import Outcome, Row, Run

_ENUMERABLE = 200_000
_POOL = 3000
_PARENTS = 6
_DRAWN = 16
_REFIT_GROWTH = 1.15
_LARGEST_FIT = 400


def surrogate(run: Run, initial: int | None = None, batch: int = 1) -> Outcome:
    """Measure some policies, fit, measure where the expected improvement is greatest, and so on; never one twice.

    Args:
        run: the run.
        initial: policies measured before the first fit; by default 5 to 12, by the number of decisions.
        batch: policies measured between fits.

    Raises:
        SearchError: neither evaluations nor time are limited.
    """
    run.require_end("surrogate")
    candidates = Candidates(run)
    count = initial if initial is not None else int(np.clip(len(run.problem.decisions) + 2, 5, 12))
    run.ledger.score_all(candidates.first(min(count, run.ledger.remaining)))
    model = Model(run)
    while run.ledger.remaining:
        pool = candidates.pool()
        if not pool:
            break
        model.fit(run.ledger.scored())
        gain = model.expected_improvement(pool)
        best = np.argsort(-gain, kind="stable")[: min(batch, run.ledger.remaining)]
        run.ledger.score_all([pool[i] for i in best])
    return Outcome(counts={"fits": model.fits})


class Candidates:
    """Feasible policies that were not measured: all of a small space, else neighbours of the best and random ones."""

    def __init__(self, run: Run) -> None:
        self._run = run
        self._sampler = Sampler(run.problem, run.completion, run.generator).draw()
        self._all: list[Row] | None = None
        if prod(int(n) for n in run.problem.tables.legal.sum(1)) <= _ENUMERABLE:
            rows = np.concatenate(list(feasible_rows(run.problem)))
            if len(rows) <= _POOL:
                self._all = [tuple(int(i) for i in row) for row in rows]

    def first(self, count: int) -> list[Row]:
        """Return the least sensitive policy, uniform widths as far as they are feasible, then random policies."""
        problem = self._run.problem
        wishes = [
            [min(i, size - 1) for size in problem.tables.sizes] for i in range(max(problem.tables.sizes) - 1, -1, -1)
        ]
        rows = [least_sensitive(problem), *(self._run.feasible_row(wish) for wish in wishes)]
        found = list(dict.fromkeys(row for row in rows if row is not None))[: count // 2]
        for row in self._sampler:
            if len(found) >= count:
                break
            if row not in found:
                found.append(row)
        return found[:count]

    def pool(self) -> list[Row]:
        """Return policies to choose from."""
        known = self._run.ledger.known
        if self._all is not None:
            self._all = [row for row in self._all if not known(row)]
            return self._all
        scored = [(score, row) for row, score in self._run.ledger.scored().items() if not np.isnan(score)]
        parents = [row for _, row in sorted(scored, reverse=True)[:_PARENTS]]
        near = {row for parent in parents for row in neighbours(self._run.problem, self._run.widths, parent)}
        steps = sorted(near)
        further = self._second_steps(steps, 3 * len(parents)) if steps else set()
        drawn = [row for row, _ in zip(self._sampler, range(_DRAWN), strict=False)]
        rows = sorted(near | further | set(drawn))
        if len(rows) > _POOL:
            rows = [rows[i] for i in np.sort(self._run.generator.choice(len(rows), size=_POOL, replace=False))]
        good = self._run.problem.feasible(np.array(rows)) if rows else np.zeros(0, dtype=bool)
        return [row for row, fine in zip(rows, good, strict=True) if fine and not known(row)]

    def _second_steps(self, steps: list[Row], count: int) -> set[Row]:
        chosen = self._run.generator.choice(len(steps), size=min(count, len(steps)), replace=False)
        return {row for i in chosen for row in neighbours(self._run.problem, self._run.widths, steps[i])}


@dataclass(frozen=True, slots=True)
class _Shape:
    """Hyper-parameters of the covariance: share of the interacting part, two length scales, noise."""

    interacting: float
    additive_length: float
    joint_length: float
    noise: float


_SHAPES = [_Shape(*values) for values in product((0.2, 0.5, 0.8), (0.4, 1.5), (0.3, 1.0), (1e-3, 3e-2))]


class Model:
    """Gaussian process over policies.

    Attributes:
        fits: how often hyper-parameters were chosen.
    """

    def __init__(self, run: Run) -> None:
        self._problem = run.problem
        table = np.nan_to_num(Widths(run.problem).table)
        self._apart = np.abs(table[:, :, None] - table[:, None, :])
        self._shape = _SHAPES[0]
        self._chosen_at = 0.0
        self.fits = 0

    def fit(self, scored: dict[Row, float]) -> None:
        """Condition on scores; failed policies count as the worst ones."""
        rows = list(scored)
        values = np.array([scored[row] for row in rows])
        values = np.where(np.isnan(values), np.nanmin(values) if not np.isnan(values).all() else 0.0, values)
        if len(rows) > _LARGEST_FIT:
            kept = np.sort(np.argsort(-values, kind="stable")[:_LARGEST_FIT])
            rows, values = [rows[i] for i in kept], values[kept]
        self._points, self._linear = self._encode(rows)
        self._targets = _normal_scores(values)
        if len(rows) >= self._chosen_at * _REFIT_GROWTH:
            self._shape = max(_SHAPES, key=self._likelihood)
            self._chosen_at = float(len(rows))
            self.fits += 1
        factor = self._factor(self._shape)
        self._lower = factor
        self._weights = np.linalg.solve(factor.T, np.linalg.solve(factor, self._targets))

    def expected_improvement(self, rows: list[Row]) -> Floats:
        """Return expected improvement on the best target, per policy."""
        from scipy.special import ndtr

        points, linear = self._encode(rows)
        cross = self._covariance(points, self._points, linear, self._linear, self._shape)
        mean = cross @ self._weights
        explained = (np.linalg.solve(self._lower, cross.T) ** 2).sum(0)
        own = 1.0 + linear**2
        deviation = np.sqrt(np.maximum(own - explained, 1e-10))
        excess = mean - self._targets.max()
        z = excess / deviation
        density = np.exp(-0.5 * z**2) / np.sqrt(2.0 * np.pi)
        return np.asarray(excess * ndtr(z) + deviation * density)

    def _encode(self, rows: list[Row]) -> tuple[Indices, Floats]:
        points = np.array(rows, dtype=np.intp)
        sensitivity = self._problem.tables.sensitivity
        if sensitivity is None:
            return points, np.zeros(len(rows))
        total = np.log(np.maximum(sensitivity.total(np.array(rows)), 1e-30))
        least = np.where(self._problem.tables.legal, sensitivity.unary, np.inf).min(1).sum()
        most = np.where(self._problem.tables.legal, sensitivity.unary, -np.inf).max(1).sum()
        low, high = np.log(max(least / sensitivity.scale, 1e-30)), np.log(max(most / sensitivity.scale, 1e-29))
        return points, np.asarray(4.0 * (total - 0.5 * (low + high)) / max(high - low, 1e-9))

    def _covariance(self, a: Indices, b: Indices, linear_a: Floats, linear_b: Floats, shape: _Shape) -> Floats:
        count, width, _ = self._apart.shape
        chosen = np.eye(width)[a].reshape(len(a), count * width)
        decisions = np.arange(count)

        def summed(table: Floats) -> Floats:
            """Return sum over the decisions of table[decision, option of a, option of b]: [policies a, policies b]."""
            return np.asarray(chosen @ table[decisions, :, b].reshape(len(b), count * width).T)

        additive = summed(np.exp(-self._apart / shape.additive_length)) / count
        joint = np.exp(-summed(self._apart) / (shape.joint_length * count**0.5))
        mixed = (1.0 - shape.interacting) * additive + shape.interacting * joint
        return np.asarray(mixed + linear_a[:, None] * linear_b[None, :])

    def _factor(self, shape: _Shape) -> Floats:
        matrix = self._covariance(self._points, self._points, self._linear, self._linear, shape)
        return np.asarray(np.linalg.cholesky(matrix + (shape.noise + 1e-8) * np.eye(len(matrix))))

    def _likelihood(self, shape: _Shape) -> float:
        factor = self._factor(shape)
        half = np.linalg.solve(factor, self._targets)
        variance = max(float(half @ half) / len(half), 1e-12)
        return -float(np.log(np.diag(factor)).sum()) - 0.5 * len(half) * float(np.log(variance))


def _normal_scores(values: Floats) -> Floats:
    """Return ranks (ties averaged) as quantiles of the normal distribution, zero mean and unit variance."""
    from scipy.special import ndtri
    from scipy.stats import rankdata

    scores = ndtri((rankdata(values) - 0.375) / (len(values) + 0.25))
    spread = float(scores.std())
    return np.asarray(scores / spread if spread > 0 else scores)
