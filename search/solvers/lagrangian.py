"""Lagrangian relaxation: budgets move into the objective with multipliers; gives a policy and a valid bound."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product

import numpy as np

from qir.errors import SearchError
from qir.search.completion import frontiers
from qir.search.problem import Floats
from qir.search.result import Evaluation
from qir.search.solvers.filling import filled
from qir.search.solvers.run import Outcome, Row, Run
from qir.search.tables import AdditiveCost, Edge, Tables

_LARGEST_TABLE = 4096


class Relaxed:
    """The problem without its budgets, solved exactly by elimination along the walk.

    Args:
        tables: arrays of the problem.

    Raises:
        SearchError: relations and pair costs are too entangled to eliminate.
    """

    def __init__(self, tables: Tables) -> None:
        self._tables = tables
        self._edges = tables.edges()
        self._ahead = frontiers(len(tables.sizes), self._edges)
        sizes = tables.legal.sum(1)
        if max(float(np.prod(sizes[list(f)], dtype=np.float64)) for f in self._ahead) > _LARGEST_TABLE:
            raise SearchError("lagrangian: relations and pair costs join too many decisions at once; use milp")

    def minimise(self, unary: Floats, pairs: dict[Edge, Floats]) -> tuple[Row, float]:
        """The policy that meets every relation with the least sum of unary and pair terms, and that sum."""
        tables = self._tables
        later: dict[Row, float] = {(): 0.0}
        choice: list[dict[Row, int]] = [{} for _ in tables.sizes]
        for t in range(len(tables.sizes) - 1, -1, -1):
            now: dict[Row, float] = {}
            for key in product(*(np.flatnonzero(tables.legal[i]) for i in self._ahead[t])):
                given = {i: int(v) for i, v in zip(self._ahead[t], key, strict=True)}
                terms = self._terms(t, unary, pairs, given)
                total = [
                    terms[o] + later[tuple(o if i == t else given[i] for i in self._ahead[t + 1])]
                    if np.isfinite(terms[o])
                    else np.inf
                    for o in range(len(terms))
                ]
                best = int(np.argmin(total))
                place = tuple(given.values())
                now[place], choice[t][place] = total[best], best
            later = now
        row: list[int] = []
        for t in range(len(tables.sizes)):
            row.append(choice[t][tuple(row[i] for i in self._ahead[t])])
        return tuple(row), later[()]

    def _terms(self, t: int, unary: Floats, pairs: dict[Edge, Floats], given: dict[int, int]) -> Floats:
        terms = np.where(self._tables.legal[t], unary[t], np.inf)
        for earlier, value in given.items():
            edge = (earlier, t)
            if edge in self._tables.relations:
                terms = np.where(self._tables.relations[edge][value], terms, np.inf)
            if edge in pairs:
                terms = terms + pairs[edge][value]
        return terms


def lagrangian(run: Run, iterations: int = 100) -> Outcome:
    """Subgradient ascent on the multipliers; the best feasible policy met on the way, filled up, and the best bound.

    Args:
        run: the run.
        iterations: steps on the multipliers.

    Raises:
        SearchError: no sensitivity, budgets that are not additive, or no feasible policy met.
    """
    sensitivity = run.additive_sensitivity("lagrangian")
    tables = run.problem.tables
    costs = [tables.costs[name] for name in tables.additive_budgets]
    limits = np.array([float(tables.limits[name]) * tables.costs[name].scale for name in tables.additive_budgets])
    scales = np.maximum(np.abs(limits), 1e-12)
    relaxed, multipliers = Relaxed(tables), np.zeros(len(costs))
    met: dict[Row, float] = {}
    bound, step = -np.inf, 1.0
    for _ in range(iterations):
        row, total = relaxed.minimise(*weighted(sensitivity, costs, multipliers / scales))
        fixed = sensitivity.fixed + sum(m * c.fixed / s for m, c, s in zip(multipliers, costs, scales, strict=True))
        dual = (total + fixed - float((multipliers * limits / scales).sum())) / sensitivity.scale
        step = step if dual > bound + 1e-12 else 0.9 * step
        bound = max(bound, dual)
        indices = np.array([row])
        if run.problem.feasible(indices)[0]:
            met[row] = float(sensitivity.total(indices)[0])
        excess = np.array([c.scaled_total(indices)[0] for c in costs]) / scales - limits / scales
        if not len(costs) or (met and min(met.values()) - bound <= 1e-12):
            break
        norm = max(float((excess**2).sum()), 1e-12)
        goal = max(min(met.values(), default=bound + abs(bound) + 1.0) - bound, 1e-9) * sensitivity.scale
        multipliers = np.maximum(0.0, multipliers + step * goal * excess / norm)
    return _outcome(run, met, bound)


def _outcome(run: Run, met: dict[Row, float], bound: float) -> Outcome:
    row = min(met, key=lambda r: met[r]) if met else run.feasible_row([0] * len(run.problem.decisions))
    if row is None:
        raise SearchError("lagrangian: no multiplier led to a feasible policy; use milp")
    sensitivity = run.additive_sensitivity("lagrangian")
    row = filled(run.problem, sensitivity, row)
    value = float(sensitivity.total(np.array([row]))[0])
    extra: list[Evaluation] = [run.ledger.evaluation(r, v) for r, v in met.items()]
    proved = value - bound <= 1e-9 * max(1.0, abs(value))
    return Outcome(row=row, status="optimal" if proved else "feasible", bound=min(float(bound), value), extra=extra)


def weighted(
    sensitivity: AdditiveCost, costs: Sequence[AdditiveCost], multipliers: Sequence[float] | Floats
) -> tuple[Floats, dict[Edge, Floats]]:
    """Unary and pair terms of the sensitivity plus costs (scaled) times their multipliers."""
    unary = sensitivity.unary.copy()
    pairs: dict[Edge, Floats] = {}
    for cost, multiplier in zip(costs, multipliers, strict=True):
        unary += multiplier * cost.unary
        for edge, matrix in cost.pairs.items():
            pairs[edge] = pairs.get(edge, 0.0) + multiplier * matrix
    return unary, pairs
