"""Unfinished policies: how they go on where the rest is as narrow, or as wide, as the budgets let it be."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from qir.search.problem.completion import Completion
from qir.search.problem.enforcement import bits_of
from qir.search.problem.moves import Row, Widths, projected
from qir.search.problem.problem import Problem
from qir.search.problem.tables import Bools


class Partial:
    """Completions of prefixes that keep relations and additive budgets.

    Args:
        problem: the problem.
        completion: its backward tables.
    """

    def __init__(self, problem: Problem, completion: Completion) -> None:
        self._problem, self._completion, self._widths = problem, completion, Widths(problem)
        self._metrics = [name for name in problem.budgets if name in problem.metrics]
        orders = [
            sorted(range(len(d.options)), key=[bits_of(option) for option in d.options].__getitem__)
            for d in problem.decisions
        ]
        self._narrow, self._wide = [order[0] for order in orders], [order[-1] for order in orders]

    def widest(self, prefix: Sequence[int]) -> Row | None:
        """Return the policy that goes on with the widest options that leave a feasible completion.

        None at a dead end.
        """
        return projected(self._completion, self._widths, [*prefix, *self._wide[len(prefix) :]])

    def within_metrics(self, prefix: Sequence[int], mask: Bools) -> Bools:
        """Return options of a mask [most options] after which the narrowest completion keeps every budget on a metric.

        A metric is taken to grow with the widths. The mask itself where no option keeps them.
        """
        if not self._metrics:
            return mask
        kept = mask.copy()
        for option in np.flatnonzero(mask):
            row = projected(self._completion, self._widths, [*prefix, int(option), *self._narrow[len(prefix) + 1 :]])
            kept[option] = row is not None and bool(self._problem.feasible(np.array([row]))[0])
        return kept if kept.any() else mask
