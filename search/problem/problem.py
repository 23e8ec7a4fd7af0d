"""A search problem: decisions and their options, costs, relations, budgets, and what is to be optimised."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property
from typing import Any

import numpy as np

from qir.errors import SearchError
from qir.policy import Bits, Policy
from qir.search.problem.parts import Budget, Indices, numbers
from qir.search.problem.statement import Statement
from qir.search.problem.tables import Tables
from qir.support.nearest import nearest


@dataclass(frozen=True, eq=False)
class Problem(Statement):
    """Everything that a solver may know; its fields are those of `Statement`.

    Raises:
        SearchError: names that do not exist, shapes that do not fit, NaN costs, nothing to optimise, a budget that
            would not bind.
    """

    def __post_init__(self) -> None:
        names = [decision.name for decision in self.decisions]
        if not names or len(set(names)) != len(names):
            raise SearchError(f"problem: decisions {names}; expected one or more, none twice")
        if self.sensitivity is None and self.objective is None:
            raise SearchError("problem: nothing to optimise; give sensitivity (minimised) or objective (maximised)")
        if self.objective is not None and not callable(self.objective):
            raise SearchError(f"problem: objective {self.objective!r}; expected a callable from a policy to a number")
        for name in self.fixed_costs:
            if name not in self.cost_names:
                raise SearchError(f"fixed cost {name!r}: no cost has this name; known are {list(self.cost_names)}")
        self._check_budgets()
        if self.features is not None and numbers("features", self.features).shape[:1] != (len(names),):
            raise SearchError(f"problem: features of {len(self.features)} decisions; expected {len(names)}")
        if self.importance is not None:
            found = numbers("importance", [self.importance])
            if found.shape != (1, len(names)) or (found < 0).any() or not found.any():
                raise SearchError(
                    f"problem: importance {list(self.importance)}; expected {len(names)} of 0 or more, not all 0"
                )
        _ = self.tables

    def _check_budgets(self) -> None:
        for name, budget in self.budgets.items():
            if not isinstance(budget, Budget):
                raise SearchError(f"budget {name!r}: {budget!r}; expected Budget(maximum=...) or Budget.parse('0.6x')")
            if name not in self.cost_names and name not in self.metrics:
                known = {*self.cost_names, *self.metrics}
                raise SearchError(f"budget {name!r}: no cost or metric has this name: {nearest(name, known)}")
            if name in self.refused:
                raise SearchError(f"budget {name!r}: {self.refused[name]}")

    @cached_property
    def tables(self) -> Tables:
        """The problem as arrays over option indices."""
        return Tables(self)

    def cost(self, name: str, policy: Mapping[str, Bits]) -> float:
        """Return what a policy costs, in the unit of that cost or metric.

        Raises:
            SearchError: no such cost.
        """
        if name in self.metrics:
            return float(self.metric(name, [Policy(policy)])[0])
        if name not in self.tables.costs:
            raise SearchError(f"cost {name!r}: unknown; known are {[*self.tables.costs, *self.metrics]}")
        return float(self.tables.costs[name].exact_total(np.array(self.indices(policy))))

    def limit(self, name: str) -> Fraction:
        """Return the limit of a budget in the unit of its cost, exactly."""
        return self.tables.limits[name]

    def ratio(self, name: str, policy: Mapping[str, Bits]) -> float:
        """Cost of a policy as a share of the budget's reference (of 8 bits everywhere, if that is legal).

        Without a reference the most expensive options serve as one.
        """
        return self.cost(name, policy) / self.tables.reference(name)

    def violations(self, policy: Mapping[str, Bits]) -> list[str]:
        """Return every relation and budget that a policy breaks, in words; budgets are held in exact arithmetic."""
        indices = np.array([self.indices(policy)])
        return self.tables.violations(indices[0]) + self._broken_metrics(policy)

    def feasible(self, indices: Indices) -> np.ndarray[Any, np.dtype[np.bool_]]:
        """Return which rows of option indices [policies, decisions] break no relation and no budget."""
        good = self.tables.feasible(indices)
        for name in self.budgets:
            if name in self.metrics and good.any():
                policies = [self.policy(row) for row in indices[good]]
                good[good] = self.metric(name, policies) <= float(self.limit(name))
        return good

    def _broken_metrics(self, policy: Mapping[str, Bits]) -> list[str]:
        return [
            f"budget {name!r}: {self.cost(name, policy):g} is over {float(self.limit(name)):g}"
            for name in self.budgets
            if name in self.metrics and not self.cost(name, policy) <= float(self.limit(name))
        ]
