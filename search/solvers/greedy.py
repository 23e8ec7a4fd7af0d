"""Greedy multiple-choice knapsack: step down where a unit of cost loses least, then fill up what is left."""

from __future__ import annotations

import numpy as np

from qir.errors import SearchError
from qir.search.moves import Widths, neighbours
from qir.search.problem import Floats, Indices, Problem
from qir.search.solvers.filling import filled
from qir.search.solvers.run import Outcome, Row, Run
from qir.search.tables import AdditiveCost


def greedy(run: Run) -> Outcome:
    """Start from the least sensitive policy; while over a budget take the step with the least loss per cost saved.

    Steps change one decision and what relations make follow. Once every budget is met, steps that lower the sensitivity
    within the budgets are taken as long as there are any.

    Raises:
        SearchError: no sensitivity, budgets that are not additive, or no feasible policy met.
    """
    sensitivity = run.additive_sensitivity("greedy")
    row = _least_sensitive(run, sensitivity)
    steps = 0
    while not run.problem.feasible(np.array([row]))[0]:
        lower = _down(run.problem, run.widths, sensitivity, row) or run.feasible_row(row)
        if lower is None:
            raise SearchError("greedy: no step meets the budgets; use milp")
        row, steps = lower, steps + 1
    return Outcome(row=filled(run.problem, sensitivity, row), counts={"steps": steps})


def _least_sensitive(run: Run, sensitivity: AdditiveCost) -> Row:
    from qir.search.solvers.lagrangian import Relaxed

    row, _ = Relaxed(run.problem.tables).minimise(sensitivity.unary, {})
    return row


def _excess(problem: Problem, rows: Indices) -> Floats:
    """By how much rows are over their budgets, as a share of each budget, summed: [policies]."""
    tables = problem.tables
    over = np.zeros(len(rows))
    for name in tables.additive_budgets:
        limit = float(tables.limits[name])
        over += np.maximum(0.0, (tables.costs[name].total(rows) - limit) / max(abs(limit), 1e-12))
    return over


def _down(problem: Problem, widths: Widths, sensitivity: AdditiveCost, row: Row) -> Row | None:
    found = neighbours(problem, widths, row)
    rows = np.array([row, *found])
    excess, loss = _excess(problem, rows), sensitivity.total(rows)
    saved = excess[0] - excess[1:]
    useful = np.flatnonzero(saved > 0)
    if not len(useful):
        return None
    price = (loss[1:] - loss[0])[useful] / saved[useful]
    return found[int(useful[price.argmin()])]
