"""`solve`: one call for every solver, and the table of their names."""

from __future__ import annotations

import inspect
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from qir.errors import InfeasibleError, MissingExtraError, SearchError
from qir.registry import Registry
from qir.search.evaluation.ledger import Ledger
from qir.search.evaluation.parallel import Workers
from qir.search.problem.moves import projected
from qir.search.problem.problem import Problem
from qir.search.problem.result import VALUE, Evaluation, Progress, Result, pareto_front
from qir.search.solvers.run import Outcome, Run, Solver
from qir.support.packages import is_installed

if TYPE_CHECKING:
    from qir.search.evaluation.store import Store

METHODS: Registry[Solver] = Registry(
    "method",
    "qir.methods",
    {
        "exhaustive": "qir.search.solvers.exhaustive:exhaustive",
        "random": "qir.search.solvers.random:random",
        "milp": "qir.search.solvers.milp:milp",
        "pareto-dp": "qir.search.solvers.pareto:pareto_dp",
        "greedy": "qir.search.solvers.greedy:greedy",
        "lagrangian": "qir.search.solvers.lagrangian:lagrangian",
        "evolution": "qir.search.solvers.evolution:evolution",
        "nsga2": "qir.search.solvers.nsga2:nsga2",
        "apq": "qir.search.solvers.predictor:predictor_evolution",
        "surrogate": "qir.search.solvers.surrogate:surrogate",
        "rl": "qir.search.agents.ppo:maskable_ppo",
        "haq": "qir.search.agents.papers:haq",
        "wang2024": "qir.search.agents.papers:wang2024",
        "adrl": "qir.search.agents.papers:adrl",
        "autoq": "qir.search.agents.autoq:autoq",
        "releq": "qir.search.agents.recurrent:releq",
    },
    accepts=callable,
    expected="a function from a run and options to an outcome",
    error=SearchError,
)
"""Name of a method → its function; one of another package is an entry point of the group `qir.methods`."""

_NEEDS = {
    "rl": ("sb3_contrib", "sb3-contrib"),
    "releq": ("sb3_contrib", "sb3-contrib"),
    "haq": ("stable_baselines3", "stable-baselines3"),
    "wang2024": ("stable_baselines3", "stable-baselines3"),
    "adrl": ("stable_baselines3", "stable-baselines3"),
    "autoq": ("stable_baselines3", "stable-baselines3"),
    "apq": ("sklearn", "scikit-learn"),
    "nsga2": ("pymoo", "pymoo"),
}
"""Method → the package that it needs besides qir's own, as it is imported and as it is installed."""

PROXY = "proxy: the value is an additive sensitivity, no measured accuracy"
"""Note on results that minimise a sensitivity."""

ADDITIVE = frozenset({"milp", "pareto-dp", "greedy", "lagrangian"})
"""Methods that minimise the sensitivity of a problem and measure no policy."""

GUIDED = ADDITIVE | {"evolution", "surrogate", "adrl"}
"""Methods that take the sensitivity of a problem at least as a guide."""


def solve(
    problem: Problem,
    method: str = "milp",
    *,
    evaluations: int | None = None,
    seed: int = 0,
    progress: Callable[[Progress], None] | None = None,
    store: Store | str | Path | None = None,
    executor: Workers | None = None,
    time_limit: float | None = None,
    **options: Any,
) -> Result:
    """Search a problem.

    Args:
        problem: decisions, costs, budgets and what to optimise.
        method: a name in `METHODS`.
        evaluations: most policies to evaluate; solvers that measure need it (exhaustive takes what it needs).
        seed: seed of every random choice.
        progress: told after each episode (after each evaluation where there are no episodes).
        store: keeps every measured value: a store, a path of an SQLite file, or an SQLAlchemy URL.
        executor: where the objective runs; in this process by default.
        time_limit: wall seconds after which the best so far is returned.
        **options: of the method; see its function.

    Returns:
        The result. A user's interrupt (Ctrl-C) ends the run and returns the best so far, status "interrupted".

    Raises:
        SearchError: unknown method or option, a part of the problem that the method cannot use, or every evaluation
            failed.
        InfeasibleError: no policy meets a budget; names the smallest reachable cost.
    """
    solver = check_options(method, options)
    if evaluations is not None and (not isinstance(evaluations, int | np.integer) or evaluations < 1):
        raise SearchError(f"evaluations: {evaluations}; expected an integer of 1 or more")
    if not isinstance(seed, int | np.integer) or seed < 0:
        raise SearchError(f"seed: {seed}; expected an integer of 0 or more")
    if time_limit is not None and time_limit <= 0:
        raise SearchError(f"time_limit: {time_limit}; expected seconds, more than 0")
    start = time.perf_counter()
    deadline = None if time_limit is None else time.monotonic() + time_limit
    ledger = Ledger(problem, evaluations, opened(store), executor, progress, deadline)
    run = Run(problem, ledger, seed, deadline)
    check_feasible(run)
    try:
        outcome = solver(run, **options)
    except KeyboardInterrupt:
        if ledger.best is None:
            raise
        outcome = Outcome(status="interrupted")
    return _result(method, run, outcome, time.perf_counter() - start)


def check_feasible(run: Run) -> None:
    """Raise if no policy meets the additive budgets.

    Raises:
        InfeasibleError: names the budget and the smallest reachable cost.
    """
    from qir.search.solvers.milp import Program, infeasible

    tables = run.problem.tables
    if run.completion.feasible:
        row = projected(run.completion, run.widths, [0] * len(tables.sizes))
        if row is not None and tables.feasible(np.array([row]))[0]:
            return
        solved = Program(tables, tables.additive_budgets).minimise(next(iter(tables.costs.values())))
        if solved.status != "infeasible":
            return
    raise infeasible(run.problem)


def leaderboard(results: Sequence[Result]) -> list[tuple[str, float, str, int]]:
    """Return rows (method, value, certificate, evaluations), best first; compare only results of one problem."""
    rows = [(r.method, r.value, r.certificate, len(r.evaluations)) for r in results]
    return sorted(rows, key=lambda row: row[1], reverse=not (results and results[0].minimised))


def find_method(name: str) -> Solver:
    """Return the solver of a method.

    Raises:
        SearchError: there is none of this name; the message holds the nearest.
    """
    return METHODS[name]


def check_options(method: str, options: Mapping[str, Any]) -> Solver:
    """Return the solver of a method, which takes these options.

    Raises:
        SearchError: there is no such method, or it takes no option of that name.
        MissingExtraError: a package that it needs is not installed.
    """
    solver = find_method(method)
    package, name = _NEEDS.get(method, ("", ""))
    if package and not is_installed(package):
        raise MissingExtraError(name, "search")
    known = list(inspect.signature(solver).parameters)[1:]
    unknown = sorted(set(options) - set(known))
    if unknown:
        raise SearchError(f"method {method!r}: unknown options {unknown}; it takes {known or 'none'}")
    return solver


def opened(store: Store | str | Path | None) -> Store | None:
    """Return a store as it is, or the one of a file or URL; None without one.

    Raises:
        SearchError: no database can be opened there.
        MissingExtraError: SQLAlchemy or the driver is not installed.
    """
    if store is None:
        return None
    from qir.search.evaluation.store import Store

    return store if isinstance(store, Store) else Store(store)


def _best(run: Run, outcome: Outcome) -> tuple[Evaluation, bool]:
    """Return the winning row of a run, and whether its value is a sensitivity."""
    if outcome.row is not None:
        value = float(run.problem.tables.proxy.total(np.array([outcome.row]))[0])
        return run.ledger.evaluation(outcome.row, value), True
    if run.ledger.best is not None:
        return run.ledger.best, run.ledger.minimised
    if not run.ledger.evaluations:
        _raise_if_metrics_bar_all(run.problem)
    failed = [e.error for e in run.ledger.evaluations if e.error]
    raise SearchError(
        f"no policy has a value: {len(failed)} of {len(run.ledger.evaluations)} evaluations failed"
        + (f"; the last said: {failed[-1]}" if failed else "; no policy meets every budget, or no time was left")
    )


def _raise_if_metrics_bar_all(problem: Problem) -> None:
    """Name the smallest reachable value of a metric's budget, if the space is small enough to enumerate.

    Raises:
        InfeasibleError: no policy that meets the other budgets meets this one.
    """
    from qir.search.solvers.exhaustive import LARGEST_METRIC_SPACE, rows_of
    from qir.search.solvers.milp import infeasible

    names = [name for name in problem.budgets if name in problem.metrics]
    if not names or float(np.prod(problem.tables.legal.sum(1), dtype=np.float64)) > LARGEST_METRIC_SPACE:
        return
    rows = np.concatenate([rows[problem.tables.feasible(rows)] for rows in rows_of(problem)])
    if not len(rows):
        raise infeasible(problem)
    policies = [problem.policy(row) for row in rows]
    values = {name: problem.metric(name, policies) for name in names}
    met = {name: values[name] <= float(problem.limit(name)) for name in names}
    for name in names:
        others = np.array([met[other] for other in names if other != name], dtype=bool).reshape(-1, len(rows)).all(0)
        smallest = float(values[name][others].min() if others.any() else values[name].min())
        if smallest > float(problem.limit(name)):
            raise InfeasibleError(name, float(problem.limit(name)), smallest)


def _result(method: str, run: Run, outcome: Outcome, seconds: float) -> Result:
    best, minimised = _best(run, outcome)
    rows = [*run.ledger.evaluations, *outcome.extra] if minimised == run.ledger.minimised else [*outcome.extra]
    if outcome.row is not None:
        rows.append(best)
    names = list(run.problem.budgets) or list(run.problem.cost_names)
    empty = _emptiness(run.problem)
    bound, status = (None, "feasible") if empty and outcome.status == "optimal" else (outcome.bound, outcome.status)
    return Result(
        method=method,
        policy=best.policy,
        value=best.value,
        minimised=minimised,
        status=status,
        bound=bound,
        gap=None if bound is None else abs(best.value - bound) / max(abs(best.value), 1e-12),
        costs=best.costs,
        front=pareto_front(rows, names, minimised),
        evaluations=tuple(run.ledger.evaluations),
        seed=run.seed,
        seconds=seconds,
        counts={**run.ledger.counts, **outcome.counts},
        probabilities=outcome.probabilities,
        notes=(*outcome.notes, *([PROXY] if minimised else []), *run.problem.notes, *_idle(run.problem), *empty),
        limits={name: float(run.problem.limit(name)) for name in run.problem.budgets},
        selected_by=VALUE if best.reward is None else run.ledger.selected_by,
        reward=best.reward,
        left_out={name: run.problem.left_out[name] for name in run.problem.budgets if name in run.problem.left_out},
    )


def _idle(problem: Problem) -> list[str]:
    """Return a note on each budget that no decision can change."""
    return [
        f"no decision changes {name}: its budget limits nothing"
        for name in problem.tables.additive_budgets
        if not problem.tables.depends_on_decisions(name)
    ]


def _emptiness(problem: Problem) -> list[str]:
    """Return why there was nothing to prove: no budget, and no sensitivity, depends on what is decided."""
    tables, sensitivity = problem.tables, problem.tables.sensitivity
    if tables.legal.sum() == len(tables.sizes):
        return ["the relations leave one policy: nothing was chosen"]
    if problem.budgets and len(_idle(problem)) == len(problem.budgets):
        return ["nothing is proved: no budget depends on the decisions"]
    if problem.objective is None and sensitivity is not None and not np.ptp(sensitivity.unary, axis=1).any():
        return ["nothing is proved: no decision changes the sensitivity"]
    return []
