"""Tournament evolution with sensitivity-guided mutation (EvoQ; JASQ's fitness with a fixed architecture)."""

from __future__ import annotations

from functools import partial

import numpy as np

from qir.search.problem.parts import Floats
from qir.search.solvers.random import Sampler
from qir.search.solvers.run import Outcome, Row, Run

_TRIES = 50
_POPULATION = 16
"""Policies alive."""

_TOURNAMENT = 4
"""How many compete to be a parent."""


def evolution(
    run: Run,
    crossover: float = 0.5,
    mutations: float = 1.5,
    batch: int = 4,
    gamma: float = 0.0,
) -> Outcome:
    """Parents win tournaments; children are crossed, mutated, made feasible, measured if new; the oldest die.

    Where the problem has a sensitivity, a mutation picks decisions in proportion to how much their sensitivity varies
    over the options, and options that lower it more often (EvoQ); otherwise it picks evenly.

    Args:
        run: the run.
        crossover: probability of a second parent.
        mutations: mean number of decisions that mutate.
        batch: children per generation, measured together.
        gamma: with a value other than 0, fitness is value * ratio^gamma of the first budget (JASQ, eq. 1); values must
            then be positive, and the policy of most fitness is returned.

    Raises:
        SearchError: neither evaluations nor time are limited.
    """
    run.require_end("evolution")
    name = next(iter(run.problem.budgets), None)
    if gamma and name is not None:
        run.ledger.select_by("value * ratio^gamma", partial(_of_ratio, run, name, gamma))
    breeder = Breeder(run, crossover, mutations)
    alive = _first_generation(run, breeder)
    while run.ledger.remaining and alive:
        children = _children(run, breeder, alive, min(batch, run.ledger.remaining))
        if not children:
            break
        run.ledger.score_all(children)
        alive = [*alive, *children][-_POPULATION:]
        elite = max(run.ledger.rewards().items(), key=lambda item: _or_worst(item[1]))[0]
        alive = alive if elite in alive else [elite, *alive[1:]]
    return Outcome()


def _or_worst(score: float) -> float:
    return -np.inf if np.isnan(score) else score


def _first_generation(run: Run, breeder: Breeder) -> list[Row]:
    first: list[Row] = []
    for row in breeder.sampler.draw():
        first.append(row)
        if len(first) >= min(_POPULATION, run.ledger.remaining):
            break
    run.ledger.score_all(first)
    return first


def _children(run: Run, breeder: Breeder, alive: list[Row], count: int) -> list[Row]:
    rewards = run.ledger.rewards()
    fitness = np.array([_or_worst(rewards[row]) for row in alive])
    children: list[Row] = []
    for _ in range(_TRIES * count):
        first, second = (_winner(run.generator, alive, fitness) for _ in range(2))
        child = breeder.child(first, second)
        if child is not None and not run.ledger.known(child) and child not in children:
            children.append(child)
        if len(children) == count:
            break
    return children or breeder.fresh(count)


def _winner(generator: np.random.Generator, alive: list[Row], fitness: Floats) -> Row:
    entrants = generator.integers(len(alive), size=_TOURNAMENT)
    return alive[int(entrants[fitness[entrants].argmax()])]


def _of_ratio(run: Run, name: str, gamma: float, row: Row, score: float) -> float:
    """JASQ's fitness."""
    return score * float(run.problem.ratio(name, run.problem.policy(row)) ** gamma)


class Breeder:
    """Makes feasible children.

    Args:
        run: the run.
        crossover: probability of a second parent.
        mutations: mean number of decisions that mutate.
    """

    def __init__(self, run: Run, crossover: float, mutations: float) -> None:
        self._run, self._crossover, self._mutations = run, crossover, mutations
        self._legal = [np.flatnonzero(row) for row in run.problem.tables.legal]
        self._where, self._what = self._guides()
        self.sampler = Sampler(run.problem, run.completion, run.generator)

    def child(self, first: Row, second: Row) -> Row | None:
        """Cross, mutate, project onto what is feasible; None at a dead end, or where nothing is free."""
        generator, free = self._run.generator, int((self._where > 0).sum())
        if not free:
            return None
        wish = np.array(first)
        if generator.random() < self._crossover:
            taken = generator.random(len(wish)) < 0.5
            wish[taken] = np.array(second)[taken]
        count = min(free, 1 + generator.poisson(max(0.0, self._mutations - 1.0)))
        for decision in generator.choice(len(wish), size=count, replace=False, p=self._where):
            wish[decision] = generator.choice(self._legal[decision], p=self._what[decision])
        return self._run.feasible_row(wish)

    def fresh(self, count: int) -> list[Row]:
        """Return random policies that were not measured."""
        found: list[Row] = []
        for row in self.sampler.draw():
            if not self._run.ledger.known(row):
                found.append(row)
            if len(found) == count:
                break
        return found

    def _guides(self) -> tuple[Floats, list[Floats]]:
        free = np.array([float(len(options) > 1) for options in self._legal])
        even = [np.full(len(options), 1.0 / len(options)) for options in self._legal]
        sensitivity = self._run.problem.tables.sensitivity
        if not free.any() or sensitivity is None:
            return free / max(free.sum(), 1.0), even
        losses = [sensitivity.unary[d, options] for d, options in enumerate(self._legal)]
        spread = np.array([float(np.ptp(loss)) for loss in losses])
        where = free * (0.5 / free.sum() + 0.5 * spread / max(float(spread.sum()), 1e-300))
        what = []
        for loss in losses:
            weight = np.exp(-loss / max(float(np.ptp(loss)), 1e-300) + loss.min() / max(float(np.ptp(loss)), 1e-300))
            what.append(weight / weight.sum())
        return where / where.sum(), what
