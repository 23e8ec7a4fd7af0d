"""NSGA-II (pymoo): value and every budgeted cost at once; children are made feasible before they are measured."""

from __future__ import annotations

import warnings
from importlib import import_module
from itertools import islice
from typing import Any

import numpy as np

from qir.errors import MissingExtraError
from qir.search.problem.parts import Floats
from qir.search.solvers.random import Sampler
from qir.search.solvers.run import Outcome, Row, Run

_PATIENCE = 25
_POPULATION = 20
"""Policies alive."""


def nsga2(run: Run) -> Outcome:
    """Non-dominated sorting genetic algorithm over value and costs; a space with fewer policies is measured whole.

    Args:
        run: the run.

    Raises:
        SearchError: neither evaluations nor time are limited.
    """
    run.require_end("nsga2")
    first = list(islice(Sampler(run.problem, run.completion, run.generator).draw(), _POPULATION))
    if len(first) < _POPULATION:
        run.ledger.score_all(first)
        return Outcome()
    search = _Search(run, first)
    barren = 0
    while run.ledger.remaining and barren < _PATIENCE:
        before = len(run.ledger.evaluations)
        search.generation()
        barren = 0 if len(run.ledger.evaluations) > before else barren + 1
    return Outcome()


class _Search:
    """pymoo's algorithm, asked for children and told their objectives."""

    def __init__(self, run: Run, first: list[Row]) -> None:
        self._run = run
        self._names = list(run.problem.budgets) or list(run.problem.cost_names)
        self._evaluator: Any = _pymoo("pymoo.core.evaluator").Evaluator()
        self._static: Any = _pymoo("pymoo.problems.static").StaticProblem
        self._problem = _pymoo("pymoo.core.problem").Problem(
            n_var=len(run.problem.decisions),
            n_obj=1 + len(self._names),
            xl=np.zeros(len(run.problem.decisions)),
            xu=np.array(run.problem.tables.sizes) - 1.0,
            vtype=int,
        )
        repair = _pymoo("pymoo.operators.repair.rounding").RoundingRepair()
        self._algorithm: Any = _pymoo("pymoo.algorithms.moo.nsga2").NSGA2(
            pop_size=len(first),
            sampling=np.array(first, dtype=float),
            crossover=_pymoo("pymoo.operators.crossover.sbx").SBX(prob=0.9, eta=3, vtype=float, repair=repair),
            mutation=_pymoo("pymoo.operators.mutation.pm").PM(eta=3, vtype=float, repair=repair),
        )
        self._algorithm.setup(self._problem, termination=("n_gen", 10**9), seed=run.seed, verbose=False)

    def generation(self) -> None:
        """Ask for children, make them feasible, measure them, tell the algorithm."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            children = self._algorithm.ask()
            wishes = np.round(children.get("X").astype(float)).astype(np.intp)
            rows = [self._run.feasible_row(wish) for wish in wishes]
            children.set("X", np.array([row or wish for row, wish in zip(rows, wishes, strict=True)], dtype=float))
            objectives = self._objectives(rows)
            self._evaluator.eval(self._static(self._problem, F=objectives), children)
            self._algorithm.tell(infills=children)

    def _objectives(self, rows: list[Row | None]) -> Floats:
        good = [row for row in rows if row is not None]
        scores = dict(zip(good, self._run.ledger.score_all(good), strict=True)) if good else {}
        table = np.full((len(rows), 1 + len(self._names)), 1e30)
        for i, row in enumerate(rows):
            if row is not None and not np.isnan(scores[row]):
                policy = self._run.problem.policy(row)
                table[i] = [-scores[row], *(self._run.problem.cost(name, policy) for name in self._names)]
        return table


def _pymoo(module: str) -> Any:
    try:
        return import_module(module)
    except ImportError as error:
        raise MissingExtraError("pymoo", "search") from error
