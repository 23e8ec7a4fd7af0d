"""What becomes of a finished policy that is over its budget: the sweeps of the papers.

Sweeps lower decisions from last to first until the budget is met. `haq_sweep` (HAQ, `_final_action_wall`) lowers
one decision at a time. `reverse_order` (Wang et al. 2024, section 3.3.1) changes the weights of a layer together with
the activations of the previous one: decisions that a relation joins are lowered together, so that the pair stays legal.
`least_loss` (ADRL) lowers what loses least by the sensitivity, wherever it is.
"""

from __future__ import annotations

import numpy as np

from qir.policy import Bits
from qir.search.problem.problem import Problem

Row = tuple[int, ...]


def bits_of(option: Bits) -> float:
    """Return the mean width of an option, in bits."""
    return float(np.mean(option))


def meets_budgets(problem: Problem, row: Row) -> bool:
    """Tell whether every relation and budget is met."""
    return bool(problem.feasible(np.array([row]))[0])


def haq_sweep(problem: Problem, row: Row) -> Row | None:
    """Lower single decisions, last to first, again and again, until the budgets are met; None if they never are.

    A decision that cannot be lowered without breaking a relation is left alone; where nothing can be lowered alone,
    related decisions go down together.
    """
    return _sweep(problem, row, together=False)


def reverse_order(problem: Problem, row: Row) -> Row | None:
    """Lower each layer, last to first, its weights together with the activations that a relation joins to them.

    In one sweep a decision goes down once; sweeps are repeated until the budgets are met. None if they never are.
    """
    return _sweep(problem, row, together=True)


def least_loss(problem: Problem, row: Row) -> Row | None:
    """Lower the decision that raises the sensitivity least, related ones with it, until the budgets are met (ADRL).

    None if they never are, or the problem has no sensitivity.
    """
    sensitivity = problem.tables.sensitivity
    if sensitivity is None:
        return None
    while not meets_budgets(problem, row):
        steps = [lowered(problem, row, decision, together=True) for decision in range(len(row))]
        rows = [step for step in steps if step is not None]
        if not rows:
            return None
        row = rows[int(np.argmin(sensitivity.total(np.array(rows))))]
    return row


def _sweep(problem: Problem, row: Row, *, together: bool) -> Row | None:
    while not meets_budgets(problem, row):
        before = row
        for decision in range(len(row) - 1, -1, -1):
            if row[decision] != before[decision]:
                continue  # went down with a later one in this sweep
            row = lowered(problem, row, decision, together=together) or row
            if row != before and meets_budgets(problem, row):
                return row
        if row == before:
            if together:
                return None
            together = True
    return row


def lowered(problem: Problem, row: Row, decision: int, *, together: bool) -> Row | None:
    """Return the policy with one decision one option lower, or None if that is not possible.

    Args:
        problem: the problem.
        row: option indices that meet the relations.
        decision: position of the decision to lower.
        together: decisions that a relation joins to it, directly or through others, may go down with it, as far as the
            relations demand.
    """
    order = _descending(problem, decision)
    for option in order[order.index(row[decision]) + 1 :]:
        changed = _settle(problem, row, decision, option, together=together)
        if changed is not None:
            return changed
    return None


def _descending(problem: Problem, decision: int) -> list[int]:
    options = problem.decisions[decision].options
    legal = [i for i in range(len(options)) if problem.tables.legal[decision, i]]
    return sorted(legal, key=lambda i: (-bits_of(options[i]), -i))


def _settle(problem: Problem, row: Row, decision: int, option: int, *, together: bool) -> Row | None:
    """Set one option, then repair broken relations by lowering the other side as little as possible."""
    changed = list(row)
    changed[decision] = option
    fixed, queue = {decision}, [decision]
    while queue:
        here = queue.pop()
        for edge, allowed in problem.tables.relations.items():
            if here not in edge or allowed[changed[edge[0]], changed[edge[1]]]:
                continue
            other = edge[0] if edge[1] == here else edge[1]
            fitting = _fitting(problem, changed, edge, other)
            if not together or other in fixed or fitting is None:
                return None
            changed[other] = fitting
            fixed.add(other)
            queue.append(other)
    return tuple(changed)


def _fitting(problem: Problem, row: list[int], edge: tuple[int, int], other: int) -> int | None:
    allowed = problem.tables.relations[edge]
    line = allowed[:, row[edge[1]]] if other == edge[0] else allowed[row[edge[0]]]
    order = _descending(problem, other)
    lower = [i for i in order[order.index(row[other]) :] if line[i]]
    return lower[0] if lower else None


ENFORCEMENTS = {"reverse-order": reverse_order, "haq-sweep": haq_sweep, "least-loss": least_loss}
"""Name of a rule that repairs a finished policy -> its function; "mask" keeps every prefix feasible instead."""
