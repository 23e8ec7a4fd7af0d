"""Mixed-integer linear program, solved by HiGHS: the exact optimum of an additive sensitivity, with bound and gap.

One binary per decision and option. Each pair of decisions that a relation or a pair cost joins gets one continuous
variable per legal pair, tied to the binaries by its marginals (the local polytope), which are integral where the
binaries are.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from qir.errors import InfeasibleError, SearchError
from qir.search.problem.parts import Floats
from qir.search.problem.problem import Problem
from qir.search.problem.tables import AdditiveCost, Edge, Tables
from qir.search.solvers.lagrangian import Relaxed, weighted
from qir.search.solvers.run import Outcome, Row, Run

_SCALED_OBJECTIVE = 1e4
_MOST_CUTS = 64
_PROVED = 1e-9
_INFEASIBLE = 2  # scipy's code


_SECONDS = 5.0
"""Time for an optimum that is a guide, not an answer."""


@dataclass(frozen=True, slots=True)
class Solved:
    """A solution of the program.

    Attributes:
        row: option indices, or None where none was found.
        value: objective of the row, unscaled.
        bound: no feasible policy is below it; -inf if unknown.
        status: "optimal", "time-limit" or "infeasible".
    """

    row: Row | None
    value: float
    bound: float
    status: str


class Program:
    """The constraints of a problem as a sparse linear system.

    Args:
        tables: arrays of the problem.
        budgets: names of the budgets to keep.
    """

    def __init__(self, tables: Tables, budgets: Sequence[str]) -> None:
        self._tables, self._budgets = tables, tuple(budgets)
        self._choices = [(d, int(o)) for d, row in enumerate(tables.legal) for o in np.flatnonzero(row)]
        self._column = {choice: i for i, choice in enumerate(self._choices)}
        self._pairs = [(edge, a, b) for edge in sorted(tables.edges()) for a, b in self._legal_pairs(edge)]
        self._pair_column = {pair: len(self._choices) + i for i, pair in enumerate(self._pairs)}
        self._entries: list[tuple[int, int, float]] = []
        self._low: list[float] = []
        self._high: list[float] = []
        self._add_choices()
        self._add_marginals()
        for name in budgets:
            self._add_budget(tables.costs[name], tables.scaled_limit(name))

    def minimise(self, objective: AdditiveCost, seconds: float | None = None) -> Solved:
        """Minimise an additive cost; whatever HiGHS returns is held against the budgets in exact arithmetic.

        A solution that meets the budgets only within the solver's tolerance is cut off and the program solved again.
        """
        deadline = None if seconds is None else time.monotonic() + seconds
        for _ in range(_MOST_CUTS):
            left = None if deadline is None else max(0.01, deadline - time.monotonic())
            solved = self._solve(objective, left)
            if solved.row is None or self._meets(solved.row):
                return solved
            self._cut(solved.row)
        return Solved(None, np.inf, solved.bound, "time-limit")

    def hold(self, decision: int, option: int) -> None:
        """Let a decision take one option alone.

        Args:
            decision: index of the decision.
            option: index of one of its legal options.
        """
        self._add_row([(self._column[decision, option], 1.0)], 1.0, 1.0)

    def prices(self, objective: AdditiveCost) -> dict[str, float]:
        """Budget → how much less of the objective one more unit of it would allow, in the linear relaxation (its dual).

        Empty where the relaxation cannot be solved.
        """
        from scipy.optimize import linprog
        from scipy.sparse import csr_array

        coefficients = self._coefficients(objective)
        scale = _SCALED_OBJECTIVE / (float(np.abs(coefficients).max(initial=0.0)) or 1.0)
        rows, columns, numbers = (np.array(part) for part in zip(*self._entries, strict=True))
        matrix = csr_array((numbers, (rows, columns)), shape=(len(self._low), len(coefficients))).tocsr()
        low, high = np.array(self._low), np.array(self._high)
        equal = low == high
        found = linprog(
            coefficients * scale,
            matrix[~equal],
            high[~equal],
            matrix[equal],
            low[equal],
            bounds=(0.0, 1.0),
            method="highs",
        )
        if found.status != 0:
            return {}
        units = [self._tables.costs[name] for name in self._budgets]
        largest = [float(np.abs(self._coefficients(cost)).max(initial=0.0)) or 1.0 for cost in units]
        return {
            name: max(0.0, -float(dual)) / scale / objective.scale * cost.scale / most
            for name, dual, cost, most in zip(self._budgets, found.ineqlin.marginals, units, largest, strict=True)
        }

    def _meets(self, row: Row) -> bool:
        indices = np.array(row)
        return all(self._tables.costs[n].exact_total(indices) <= self._tables.limits[n] for n in self._budgets)

    def _solve(self, objective: AdditiveCost, seconds: float | None) -> Solved:
        from scipy.optimize import Bounds, LinearConstraint, milp
        from scipy.sparse import csr_array

        coefficients = self._coefficients(objective)
        largest = float(np.abs(coefficients).max(initial=0.0)) or 1.0
        scale = _SCALED_OBJECTIVE / largest
        rows, columns, numbers = (np.array(part) for part in zip(*self._entries, strict=True))
        matrix = csr_array((numbers, (rows, columns)), shape=(len(self._low), len(coefficients)))
        integral = np.arange(len(coefficients)) < len(self._choices)
        found = milp(
            coefficients * scale,
            integrality=integral.astype(int),
            bounds=Bounds(0.0, 1.0),
            constraints=LinearConstraint(matrix, np.array(self._low), np.array(self._high)),
            options={"mip_rel_gap": 0.0, "time_limit": np.inf if seconds is None else seconds},
        )
        if found.status == _INFEASIBLE:
            return Solved(None, np.inf, np.inf, "infeasible")
        bound = -np.inf if found.mip_dual_bound is None else (found.mip_dual_bound / scale + objective.fixed)
        if found.x is None:
            return Solved(None, np.inf, bound / objective.scale, "time-limit")
        row = self._row(found.x)
        value = float(objective.total(np.array([row]))[0])
        return Solved(row, value, min(bound / objective.scale, value), "optimal" if found.status == 0 else "time-limit")

    def _row(self, solution: Floats) -> Row:
        best: dict[int, tuple[float, int]] = {}
        for (d, o), share in zip(self._choices, solution, strict=False):
            best[d] = max(best.get(d, (-1.0, 0)), (float(share), o))
        return tuple(best[d][1] for d in range(len(self._tables.sizes)))

    def _legal_pairs(self, edge: Edge) -> list[tuple[int, int]]:
        legal = self._tables.legal[edge[0]][:, None] & self._tables.legal[edge[1]][None, :]
        if edge in self._tables.relations:
            legal = legal & self._tables.relations[edge]
        return [(int(a), int(b)) for a, b in np.argwhere(legal)]

    def _add_row(self, terms: Sequence[tuple[int, float]], low: float, high: float) -> None:
        self._entries += [(len(self._low), column, number) for column, number in terms]
        self._low.append(low)
        self._high.append(high)

    def _add_choices(self) -> None:
        for d in range(len(self._tables.sizes)):
            self._add_row([(i, 1.0) for (e, _), i in self._column.items() if e == d], 1.0, 1.0)

    def _add_marginals(self) -> None:
        for edge in sorted(self._tables.edges()):
            pairs = self._legal_pairs(edge)
            for side, decision in enumerate(edge):
                for o in np.flatnonzero(self._tables.legal[decision]):
                    terms = [(self._pair_column[edge, a, b], 1.0) for a, b in pairs if (a, b)[side] == o]
                    self._add_row([*terms, (self._column[decision, int(o)], -1.0)], 0.0, 0.0)

    def _coefficients(self, cost: AdditiveCost) -> Floats:
        unary = [cost.unary[d, o] for d, o in self._choices]
        pairs = [cost.pairs[edge][a, b] if edge in cost.pairs else 0.0 for edge, a, b in self._pairs]
        return np.array([*unary, *pairs], dtype=np.float64)

    def _add_budget(self, cost: AdditiveCost, limit: float) -> None:
        coefficients = self._coefficients(cost)
        largest = float(np.abs(coefficients).max(initial=0.0)) or 1.0
        terms = [(int(i), coefficients[i] / largest) for i in np.flatnonzero(coefficients)]
        self._add_row(terms, -np.inf, (limit - cost.fixed) / largest)

    def _cut(self, row: Row) -> None:
        self._add_row([(self._column[d, o], 1.0) for d, o in enumerate(row)], -np.inf, len(row) - 1.0)


def smallest_cost(problem: Problem, name: str) -> float:
    """Return the smallest cost that any policy reaches under the relations and the other additive budgets.

    Where the other budgets cannot be met either, they are left out.

    Args:
        problem: the problem.
        name: an additive cost.
    """
    tables = problem.tables
    others = [other for other in tables.additive_budgets if other != name]
    for budgets in (others, []):
        solved = Program(tables, budgets).minimise(tables.costs[name])
        if solved.row is not None:
            return solved.value
    raise SearchError(f"cost {name!r}: no policy meets the relations")


def infeasible(problem: Problem) -> InfeasibleError:
    """Return the error that names the additive budget that is missed by most, and the smallest cost within reach."""
    limits = {name: float(problem.limit(name)) for name in problem.tables.additive_budgets}
    smallest = {name: smallest_cost(problem, name) for name in limits}
    worst = max(limits, key=lambda name: (smallest[name] - limits[name]) / max(abs(limits[name]), 1e-300))
    reference = None if problem.budgets[worst].ratio is None else problem.tables.reference(worst)
    fixed = not problem.tables.depends_on_decisions(worst)
    return InfeasibleError(worst, limits[worst], smallest[worst], reference, fixed=fixed)


def least_sensitive(problem: Problem) -> Row | None:
    """Return the exact optimum of the sensitivity, where there is one and it is found within seconds."""
    tables = problem.tables
    if tables.sensitivity is None:
        return None
    row = Program(tables, tables.additive_budgets).minimise(tables.sensitivity, _SECONDS).row
    return row if row is not None and problem.feasible(np.array([row]))[0] else None


def milp(run: Run) -> Outcome:
    """Return the policy with the least sensitivity, proved; at the time limit the best so far, with its bound.

    Raises:
        InfeasibleError: no policy meets the budgets.
    """
    sensitivity = run.additive_sensitivity("milp")
    program = Program(run.problem.tables, run.problem.tables.additive_budgets)
    solved = program.minimise(sensitivity, run.seconds_left)
    if solved.status == "infeasible":
        raise infeasible(run.problem)
    if solved.row is None:
        row = _without_solver(run, sensitivity)
        if row is None:
            raise SearchError(f"milp: {solved.status} before any policy was found; allow more time")
        solved = Solved(row, float(sensitivity.total(np.array([row]))[0]), solved.bound, "time-limit")
    gap = (solved.value - solved.bound) / max(abs(solved.value), 1e-12)
    proved = solved.status == "optimal" and gap <= 1e-6
    bound = solved.value if proved and gap <= _PROVED else solved.bound
    return Outcome(
        row=solved.row,
        status="optimal" if proved else "time-limit",
        bound=bound if np.isfinite(bound) else None,
    )


def _without_solver(run: Run, sensitivity: AdditiveCost) -> Row | None:
    """Return a feasible policy from a sweep over one price of cost, where HiGHS had no time to find any."""
    tables = run.problem.tables
    relaxed = Relaxed(tables)
    budgets = [(tables.costs[n], max(abs(tables.scaled_limit(n)), 1e-12)) for n in tables.additive_budgets]
    span = float(np.ptp(sensitivity.unary)) or 1.0
    for price in np.geomspace(1e-3, 1e3, 25) * span * len(tables.sizes):
        row, _ = relaxed.minimise(*weighted(sensitivity, [c for c, _ in budgets], [price / s for _, s in budgets]))
        if run.problem.feasible(np.array([row]))[0]:
            return row
    return None
