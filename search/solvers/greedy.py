"""Greedy multiple-choice knapsack: step down where a unit of cost loses least, then fill up what is left."""

from __future__ import annotations

from qir.errors import SearchError
from qir.search.problem.tables import AdditiveCost
from qir.search.solvers.climbing import Climb
from qir.search.solvers.run import Outcome, Row, Run


def greedy(run: Run) -> Outcome:
    """Start from the least sensitive policy; while over a budget take the step with the least loss per cost saved.

    Steps change one decision and what relations make follow. Once every budget is met, steps that lower the sensitivity
    within the budgets are taken as long as there are any.

    Raises:
        SearchError: no sensitivity, budgets that are not additive, or no feasible policy met.
    """
    sensitivity = run.additive_sensitivity("greedy")
    climb = Climb(run.problem, run.widths, sensitivity, _least_sensitive(run, sensitivity))
    steps = 0
    while not climb.feasible:
        if not climb.descend():
            row = run.feasible_row(climb.row)
            if row is None:
                raise SearchError("greedy: no step meets the budgets; use milp")
            climb.reset(row)
        steps += 1
    climb.fill()
    return Outcome(row=climb.row, counts={"steps": steps})


def _least_sensitive(run: Run, sensitivity: AdditiveCost) -> Row:
    from qir.search.solvers.lagrangian import Relaxed

    row, _ = Relaxed(run.problem.tables).minimise(sensitivity.unary, {})
    return row
