"""How much sensitivity the best completion of a prefix costs at least, by Lagrangian relaxation of the budgets.

For a price on the budgets, the least sum of sensitivity and priced cost over all completions comes from backward tables
(`Elimination`); less what the budgets are worth at that price it bounds every feasible completion from below, and the
largest bound over a range of prices is taken (Everett, 1963). Several budgets share one price, each in shares of its
limit.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from qir.search.completion import Elimination
from qir.search.problem import Floats
from qir.search.tables import AdditiveCost, Bools, Edge, Tables

_PRICES = np.array([0.0, *np.geomspace(1e-6, 1e3, 60)])
"""Prices of all budgets together, in units of the sensitivity's range over the whole problem."""


class Potential:
    """Lower bounds on the sensitivity of feasible policies that begin with a prefix.

    Args:
        tables: arrays of a problem with a sensitivity.

    Attributes:
        span: what lies between all options at their best and at their worst, budgets aside.
    """

    def __init__(self, tables: Tables) -> None:
        sensitivity = tables.sensitivity
        assert sensitivity is not None  # noqa: S101 - asked for only where the problem has one
        budgets = [(tables.costs[name], tables.scaled_limit(name)) for name in tables.additive_budgets]
        most = np.where(tables.legal, sensitivity.unary, -np.inf).max(1)
        least = np.where(tables.legal, sensitivity.unary, np.inf).min(1)
        self._all, self._scale = tables, float(sensitivity.scale)
        self.span = float((most - least).sum()) / self._scale
        prices = _PRICES * max(self.span * self._scale, 1e-300) if budgets else np.zeros(1)
        self._worth = prices * len(budgets)
        self._tables = Elimination(tables, [_priced(sensitivity, budgets, float(price)) for price in prices])

    def legal(self, decision: int) -> Bools:
        """Which options exist [most options]; none behind the last decision."""
        legal = self._all.legal
        return np.asarray(legal[decision] if decision < len(legal) else np.zeros(legal.shape[1], dtype=bool))

    def least(self, prefix: Sequence[int]) -> float:
        """No feasible policy that begins with these options has less sensitivity; +inf if there is none."""
        ahead = self._tables.labels(prefix)
        if not len(ahead) or not self._tables.allowed(prefix):
            return float("inf")
        return float((self._tables.spent(prefix) + ahead[0] - self._worth).max() / self._scale)


@dataclass(frozen=True, slots=True)
class _Priced:
    """A weighted sum of costs."""

    unary: Floats
    pairs: Mapping[Edge, Floats]
    fixed: float


def _priced(sensitivity: AdditiveCost, budgets: Sequence[tuple[AdditiveCost, float]], price: float) -> _Priced:
    """Sensitivity plus price times every budgeted cost as a share of its limit."""
    unary, fixed = sensitivity.unary.copy(), sensitivity.fixed
    pairs: dict[Edge, Floats] = {}
    for cost, limit in budgets:
        share = price / max(abs(limit), 1e-12)
        unary += share * cost.unary
        fixed += share * cost.fixed
        for edge, matrix in cost.pairs.items():
            pairs[edge] = pairs.get(edge, 0.0) + share * matrix
    return _Priced(unary, pairs, fixed)
