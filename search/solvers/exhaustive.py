"""Every policy, one after the other."""

from __future__ import annotations

from collections.abc import Iterator
from math import prod

import numpy as np

from qir.errors import SearchError
from qir.search.problem.parts import Indices
from qir.search.problem.problem import Problem
from qir.search.solvers.run import Outcome, Run

LARGEST_SPACE = 20_000_000
LARGEST_METRIC_SPACE = 100_000
_CHUNK = 65_536
_BATCH = 64


def feasible_rows(problem: Problem) -> Iterator[Indices]:
    """Yield chunks of option indices [policies, decisions] of every policy that meets everything.

    Raises:
        SearchError: there are too many policies to enumerate.
    """
    for rows in rows_of(problem):
        yield rows[problem.feasible(rows)]


def rows_of(problem: Problem) -> Iterator[Indices]:
    """Yield chunks of option indices [policies, decisions] of every combination of legal options.

    Raises:
        SearchError: there are too many policies to enumerate.
    """
    legal = [np.flatnonzero(row) for row in problem.tables.legal]
    shape = tuple(len(options) for options in legal)
    count = prod(shape)
    if count > LARGEST_SPACE:
        raise SearchError(f"exhaustive: {count:.3g} policies are more than {LARGEST_SPACE:.0g}; use milp or a search")
    for start in range(0, count, _CHUNK):
        places = np.unravel_index(np.arange(start, min(start + _CHUNK, count)), shape)
        yield np.stack([options[place] for options, place in zip(legal, places, strict=True)], axis=1)


def exhaustive(run: Run) -> Outcome:
    """Measure every feasible policy, or compute its sensitivity; the best is optimal.

    Raises:
        SearchError: fewer evaluations are allowed than there are feasible policies.
    """
    if run.problem.objective is None:
        return _additive(run)
    rows = np.concatenate(list(feasible_rows(run.problem)))
    if len(rows) > run.ledger.remaining:
        raise SearchError(
            f"exhaustive: {len(rows)} policies are feasible but only {run.ledger.remaining} evaluations are allowed"
        )
    for start in range(0, len(rows), _BATCH):
        run.ledger.score_all(rows[start : start + _BATCH])
        if not run.ledger.remaining:
            break
    complete = len(run.ledger.evaluations) == len(rows)
    done = complete and not run.ledger.counts["failed"]
    best = run.ledger.best
    status = "optimal" if done else "feasible" if complete else "time-limit"
    return Outcome(status=status, bound=best.value if done and best else None)


def _additive(run: Run) -> Outcome:
    sensitivity = run.problem.tables.proxy
    best: tuple[float, tuple[int, ...]] = (np.inf, ())
    looked_at = 0
    for rows in feasible_rows(run.problem):
        if len(rows):
            totals = sensitivity.total(rows)
            least = int(totals.argmin())
            looked_at += len(rows)
            best = min(best, (float(totals[least]), tuple(int(i) for i in rows[least])))
    if not best[1]:
        return Outcome()
    return Outcome(row=best[1], status="optimal", bound=best[0], counts={"enumerated": looked_at})
