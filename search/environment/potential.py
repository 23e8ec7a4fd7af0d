"""How much sensitivity the best completion of a prefix costs at least, by Lagrangian relaxation of the budgets.

For a price on the budgets, the least sum of sensitivity and priced cost over all completions comes from backward tables
(`Elimination`); less what the budgets are worth at that price it bounds every feasible completion from below, and the
largest bound over a range of prices is taken (Everett, 1963). Several budgets, each in shares of its limit, are priced
in several proportions.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np

from qir.search.problem.completion import Elimination
from qir.search.problem.parts import Floats
from qir.search.problem.tables import AdditiveCost, Bools, Edge, Tables

_PRICES = np.geomspace(1e-6, 1e3, 60)
"""Prices of all budgets together, in units of the sensitivity's range over the whole problem."""

_PARTS = {1: 1, 2: 4, 3: 3}
"""Number of budgets → parts into which a price is divided among them; 2 for more budgets."""


class Potential:
    """Lower bounds on the sensitivity of feasible policies that begin with a prefix.

    Args:
        tables: arrays of a problem with a sensitivity.

    Attributes:
        span: what lies between all options at their best and at their worst, budgets aside.
    """

    def __init__(self, tables: Tables) -> None:
        sensitivity = tables.proxy
        budgets = [(tables.costs[name], tables.scaled_limit(name)) for name in tables.additive_budgets]
        most = np.where(tables.legal, sensitivity.unary, -np.inf).max(1)
        least = np.where(tables.legal, sensitivity.unary, np.inf).min(1)
        self._all, self._scale = tables, float(sensitivity.scale)
        self.span = float((most - least).sum()) / self._scale
        prices = _prices(len(budgets)) * max(self.span * self._scale, 1e-300)
        self._worth = prices.sum(1)
        self._tables = Elimination(tables, [_priced(sensitivity, budgets, line.tolist()) for line in prices])

    def legal(self, decision: int) -> Bools:
        """Return which options exist [most options]; none after the last decision."""
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


def _prices(budgets: int) -> Floats:
    """Return prices to try [prices, budgets]: none, then every size in every proportion."""
    if not budgets:
        return np.zeros((1, 0))
    parts = _PARTS.get(budgets, 2)
    shares = [row for row in product(range(parts + 1), repeat=budgets) if sum(row) == parts]
    tried = _PRICES[:, None, None] * np.array(shares, dtype=np.float64)[None] / parts
    return np.concatenate([np.zeros((1, budgets)), tried.reshape(-1, budgets)])


def _priced(
    sensitivity: AdditiveCost, budgets: Sequence[tuple[AdditiveCost, float]], prices: Sequence[float]
) -> _Priced:
    """Return the sensitivity plus every budgeted cost, as a share of its limit, times its price."""
    unary, fixed = sensitivity.unary.copy(), sensitivity.fixed
    pairs: dict[Edge, Floats] = {}
    for (cost, limit), price in zip(budgets, prices, strict=True):
        share = price / max(abs(limit), 1e-12)
        unary += share * cost.unary
        fixed += share * cost.fixed
        for edge, matrix in cost.pairs.items():
            pairs[edge] = pairs.get(edge, 0.0) + share * matrix
    return _Priced(unary, pairs, fixed)
