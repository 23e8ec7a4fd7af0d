"""Use what is left of the budgets."""

from __future__ import annotations

import numpy as np

from qir.search.moves import Widths, neighbours
from qir.search.problem import Problem
from qir.search.solvers.run import Row
from qir.search.tables import AdditiveCost


def filled(problem: Problem, sensitivity: AdditiveCost, row: Row) -> Row:
    """Take the step that lowers the sensitivity most within the budgets, as long as there is one."""
    widths = Widths(problem)
    while True:
        found = neighbours(problem, widths, row)
        rows = np.array([row, *found])
        loss = sensitivity.total(rows)
        better = (loss < loss[0] - 1e-12 * abs(loss[0])) & problem.tables.feasible(rows)
        if not better.any():
            return row
        row = found[int(np.where(better, loss, np.inf).argmin()) - 1]
