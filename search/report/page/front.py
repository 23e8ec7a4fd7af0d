"""The front that the report's slider walks along: the best value at each amount of a cost, from the tables alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from qir.errors import QirError
from qir.policy import Policy
from qir.search.methods import solve
from qir.search.problem.parts import Budget
from qir.search.problem.problem import Problem
from qir.search.problem.result import Evaluation, Result

MOST_POINTS = 400
"""Stops of the slider; a longer front shows so many of its points, evenly."""


@dataclass(frozen=True)
class Front:
    """Policies by what they cost, cheapest first, each better than all cheaper ones.

    Attributes:
        cost: name of the cost.
        points: the policies.
        exact: no policy lies beyond it.
        minimised: the value is a sensitivity.
        found: how many points it has before it was thinned out for the page.
    """

    cost: str
    points: tuple[Evaluation, ...]
    exact: bool
    minimised: bool
    found: int


def front_of(problem: Problem | None, result: Result | None) -> Front | None:
    """Return the exact front of an additive problem; the measured one of the result where there is none.

    Args:
        problem: decisions, additive costs and sensitivities, from the grounds of a quantization.
        result: how the bits were chosen.

    Returns:
        None where nothing was traded: no result, no cost, or a network that the dynamic program does not finish.
    """
    name = next(iter(result.limits), None) if result is not None else None
    if result is None or name is None:
        return None
    if problem is None or problem.sensitivity is None or name not in problem.cost_names:
        best = _best(result.front, name, minimised=result.minimised)
        return Front(
            name, _thinned(best, name, result.limits[name]), exact=False, minimised=result.minimised, found=len(best)
        )
    rows = problem.tables.costs[name]
    most = float(rows.unary.max(1).sum() + sum(m[np.isfinite(m)].max() for m in rows.pairs.values()) + rows.fixed)
    free = replace(problem, budgets={name: Budget(maximum=2.0 * max(most / rows.scale, 1.0))})
    try:
        found = solve(free, "pareto-dp")
    except QirError:
        return None
    best = [_whole(problem, entry) for entry in _best(found.front, name, minimised=True)]
    return Front(
        name,
        _thinned(best, name, result.limits[name]),
        exact=found.status == "optimal",
        minimised=True,
        found=len(best),
    )


def _best(points: Sequence[Evaluation], cost: str, *, minimised: bool) -> list[Evaluation]:
    known = (entry for entry in points if cost in entry.costs and entry.error is None)
    ordered = sorted(known, key=lambda e: (e.costs[cost], e.value if minimised else -e.value))
    kept: list[Evaluation] = []
    for entry in ordered:
        if not kept or (entry.value < kept[-1].value if minimised else entry.value > kept[-1].value):
            kept.append(entry)
    return kept


def _whole(problem: Problem, entry: Evaluation) -> Evaluation:
    return replace(entry, costs={name: problem.cost(name, Policy(entry.policy)) for name in problem.cost_names})


def _thinned(points: Sequence[Evaluation], cost: str, limit: float) -> tuple[Evaluation, ...]:
    """Return at most `MOST_POINTS` points, evenly, and the last one within the budget."""
    if not points:
        return ()
    places = np.linspace(0, len(points) - 1, min(len(points), MOST_POINTS)).round().astype(int)
    within = max(sum(entry.costs[cost] <= limit for entry in points) - 1, 0)
    return tuple(points[place] for place in np.unique([*places, within]))
