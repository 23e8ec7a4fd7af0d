"""Lagrangian relaxation: budgets move into the objective with multipliers; gives a policy and a valid bound."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product

import numpy as np

from qir.errors import SearchError
from qir.search.problem.completion import frontiers
from qir.search.problem.parts import Floats
from qir.search.problem.result import Evaluation
from qir.search.problem.tables import AdditiveCost, Edge, Tables
from qir.search.solvers.climbing import Climb
from qir.search.solvers.run import Outcome, Row, Run

_LARGEST_TABLE = 4096
_LARGEST_PRICE = 1e3
"""Of a budget's whole, in units of what the sensitivity can change."""

_CLOSE = 1e-9
_REPAIRED = 4
"""Relaxed policies that are repaired."""

_TRIALS = 30
"""Wider options that are tried."""


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
        """Return the policy that meets every relation with the least sum of unary and pair terms, and that sum."""
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
    """Cutting planes on the multipliers (Kelley, 1960) up to the best bound; policies met are repaired and improved.

    Each relaxed solution is a line, or plane, above the dual function; a linear program gives the multipliers where
    they leave most room. Of the policies that the last multipliers give, those over a budget step down where a unit of
    cost loses least; all are filled up, and from the best one, wider options are tried that others then pay for.

    Args:
        run: the run.
        iterations: most relaxed problems that are solved.

    Raises:
        SearchError: no sensitivity, budgets that are not additive, or no feasible policy met.
    """
    sensitivity = run.additive_sensitivity("lagrangian")
    tables = run.problem.tables
    costs = [tables.costs[name] for name in tables.additive_budgets]
    limits = np.array([float(tables.limits[name]) * tables.costs[name].scale for name in tables.additive_budgets])
    scales = np.maximum(np.abs(limits), 1e-12)
    relaxed, multipliers = Relaxed(tables), np.zeros(len(costs))
    dual = _Dual(len(costs), _LARGEST_PRICE * (float(np.ptp(sensitivity.unary, axis=1).sum()) or 1.0))
    bound, seen = -np.inf, dict[Row, float]()
    for _ in range(iterations):
        row, _ = relaxed.minimise(*weighted(sensitivity, costs, multipliers / scales))
        indices = np.array([row])
        loss = float(sensitivity.scaled_total(indices)[0])
        excess = np.array([(c.scaled_total(indices)[0] - m) / s for c, m, s in zip(costs, limits, scales, strict=True)])
        value = loss + float(multipliers @ excess)
        bound, seen[row] = max(bound, value), value
        multipliers, most = dual.next(loss, excess)
        if most - bound <= _CLOSE * max(abs(bound), 1e-300) or run.seconds_left == 0.0:
            break
    nearest = sorted(seen, key=lambda row: -seen[row])[:_REPAIRED]
    return _outcome(run, sensitivity, nearest, bound / sensitivity.scale)


class _Dual:
    """The planes that are known above a dual function, and the multipliers where they leave most room."""

    def __init__(self, count: int, largest: float) -> None:
        self._count, self._largest = count, largest
        self._planes: list[list[float]] = []
        self._values: list[float] = []

    def next(self, loss: float, excess: Floats) -> tuple[Floats, float]:
        """Add the plane `loss + multipliers @ excess`; the multipliers to try next, and how much they can reach."""
        from scipy.optimize import linprog

        self._planes.append([1.0, *(-excess)])
        self._values.append(loss)
        found = linprog(
            [-1.0, *([0.0] * self._count)],
            A_ub=np.array(self._planes),
            b_ub=np.array(self._values),
            bounds=[(None, None), *([(0.0, self._largest)] * self._count)],
        )
        if found.x is None:  # numbers of too different sizes: no multipliers are better than those that were tried
            return np.zeros(self._count), -np.inf
        return np.asarray(found.x[1:]), float(found.x[0])


def _outcome(run: Run, sensitivity: AdditiveCost, rows: Sequence[Row], bound: float) -> Outcome:
    climb = Climb(run.problem, run.widths, sensitivity, rows[0])
    met: dict[Row, float] = {}
    for row in rows:
        climb.reset(row)
        _repair(climb)
        if climb.feasible:
            met[climb.row] = climb.loss
    if not met:
        narrow = run.feasible_row([0] * len(run.problem.decisions))
        if narrow is None:
            raise SearchError("lagrangian: no multiplier led to a feasible policy; use milp")
        climb.reset(narrow)
        _repair(climb)
        met[climb.row] = climb.loss
    row = _improved(climb, min(met, key=lambda found: met[found]))
    value = float(sensitivity.total(np.array([row]))[0])
    extra: list[Evaluation] = [run.ledger.evaluation(r, loss / sensitivity.scale) for r, loss in met.items()]
    proved = value - bound <= 1e-9 * max(1.0, abs(value))
    return Outcome(row=row, status="optimal" if proved else "feasible", bound=min(float(bound), value), extra=extra)


def _repair(climb: Climb) -> None:
    """Step down until the budgets are met, where steps lead there; then use what is left of them."""
    while not climb.feasible and climb.descend():
        pass
    if climb.feasible:
        climb.fill()


def _improved(climb: Climb, best: Row) -> Row:
    """Try options that lower the sensitivity most, paid for by other steps, so many in all."""
    climb.reset(best)
    least, tried = climb.loss, set[tuple[int, int]]()
    for _ in range(_TRIALS):
        step = next((step for step in climb.promising(_TRIALS) if step not in tried), None)
        if step is None:
            break
        tried.add(step)
        if climb.set_option(*step):
            _repair(climb)
        if climb.feasible and climb.loss < least - _CLOSE * abs(least):
            best, least, tried = climb.row, climb.loss, set()
        else:
            climb.reset(best)
    return best


def weighted(
    sensitivity: AdditiveCost, costs: Sequence[AdditiveCost], multipliers: Sequence[float] | Floats
) -> tuple[Floats, dict[Edge, Floats]]:
    """Return unary and pair terms of the sensitivity plus costs (scaled) times their multipliers."""
    unary = sensitivity.unary.copy()
    pairs: dict[Edge, Floats] = {}
    for cost, multiplier in zip(costs, multipliers, strict=True):
        unary += multiplier * cost.unary
        for edge, matrix in cost.pairs.items():
            pairs[edge] = pairs.get(edge, 0.0) + multiplier * matrix
    return unary, pairs
