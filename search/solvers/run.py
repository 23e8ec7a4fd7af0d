"""What a solver is given and what it hands back."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np

from qir.errors import SearchError
from qir.search.evaluation.ledger import Ledger
from qir.search.problem.completion import Completion
from qir.search.problem.moves import Widths, projected
from qir.search.problem.parts import Indices
from qir.search.problem.problem import Problem
from qir.search.problem.result import Evaluation
from qir.search.problem.tables import AdditiveCost

Row = tuple[int, ...]


@dataclass(frozen=True)
class Outcome:
    """What a solver found.

    Attributes:
        row: option indices of the policy; None takes the best of the ledger.
        status: "optimal", "feasible" or "time-limit".
        bound: proved bound on the value, or None.
        extra: rows that belong to the front although the ledger did not measure them.
        counts: what the solver counts.
        probabilities: [episode][decision][option], if recorded.
        notes: assumptions worth telling.
    """

    row: Row | None = None
    status: str = "feasible"
    bound: float | None = None
    extra: Sequence[Evaluation] = ()
    counts: Mapping[str, int] = field(default_factory=dict)
    probabilities: Sequence[Sequence[Sequence[float]]] = ()
    notes: Sequence[str] = ()


@dataclass(frozen=True)
class Run:
    """One call of a solver.

    Attributes:
        problem: what is searched.
        ledger: measures policies.
        seed: seed of every random choice.
        deadline: `time.monotonic()` at which to stop, or None.
    """

    problem: Problem
    ledger: Ledger
    seed: int
    deadline: float | None

    @cached_property
    def generator(self) -> np.random.Generator:
        """The run's random numbers."""
        return np.random.default_rng(self.seed)

    @cached_property
    def completion(self) -> Completion:
        """Backward tables of the problem."""
        return Completion(self.problem.tables)

    @cached_property
    def widths(self) -> Widths:
        """Options as numbers from narrow to wide."""
        return Widths(self.problem)

    def feasible_row(self, wish: Sequence[int] | Indices) -> Row | None:
        """Return the policy nearest to a wish that meets everything; None if the walk to it ends in a dead end."""
        row = projected(self.completion, self.widths, [int(option) for option in wish])
        return row if row is not None and self.problem.feasible(np.array([row]))[0] else None

    @property
    def seconds_left(self) -> float | None:
        """Time until the deadline, or None."""
        return None if self.deadline is None else max(0.0, self.deadline - time.monotonic())

    def require_end(self, method: str) -> None:
        """Raise unless evaluations or time are limited, for solvers that would never stop.

        Raises:
            SearchError: neither is.
        """
        if not self.ledger.limited and self.deadline is None:
            raise SearchError(f"{method}: needs a number of evaluations: solve(..., evaluations=200), or a time limit")

    def additive_sensitivity(self, method: str) -> AdditiveCost:
        """Return the additive proxy, for solvers that need one.

        Raises:
            SearchError: the problem has no sensitivity, or budgets on metrics that are not additive.
        """
        sensitivity = self.problem.tables.sensitivity
        if sensitivity is None:
            raise SearchError(f"{method}: needs an additive sensitivity; this problem only has a measured objective")
        self.refuse_metrics(method)
        return sensitivity

    def refuse_metrics(self, method: str) -> None:
        """Raise for solvers that cannot keep budgets on metrics that are not additive.

        Raises:
            SearchError: the problem has such a budget.
        """
        names = [name for name in self.problem.budgets if name in self.problem.metrics]
        if names:
            raise SearchError(
                f"{method}: cannot keep budgets on {names}, which are not additive; "
                "use exhaustive, random, evolution or rl"
            )


Solver = Callable[..., Outcome]
