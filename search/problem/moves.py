"""Steps between policies that keep relations and budgets."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from qir.search.problem.completion import Completion
from qir.search.problem.enforcement import bits_of
from qir.search.problem.parts import Floats
from qir.search.problem.problem import Problem

Row = tuple[int, ...]


class Widths:
    """Options of every decision as numbers from narrow (0) to wide (1), equally spaced in log2 of the mean width.

    Attributes:
        table: [decisions, most options]; NaN where there is no option.
    """

    def __init__(self, problem: Problem) -> None:
        self.table: Floats = np.full(problem.tables.legal.shape, np.nan)
        for d, decision in enumerate(problem.decisions):
            widths = np.log2(np.array([max(bits_of(option), 0.5) for option in decision.options]))
            span = widths.max() - widths.min()
            self.table[d, : len(widths)] = (widths - widths.min()) / span if span > 0 else 0.5
        self._rows = np.arange(len(self.table))

    def of(self, rows: Sequence[Row]) -> Floats:
        """Return widths [policies, decisions] of option indices."""
        return np.asarray(self.table[self._rows, np.asarray(rows, dtype=np.intp)])

    def nearest(self, decision: int, option: int, legal: Sequence[int]) -> int:
        """Return the legal option whose width is nearest to that of an option."""
        distance = np.abs(self.table[decision, list(legal)] - self.table[decision, option])
        return int(legal[int(distance.argmin())])


def projected(completion: Completion, widths: Widths, wish: Sequence[int]) -> Row | None:
    """Return the feasible policy of a walk that takes the wished option where it may, else the nearest legal one.

    None where the walk ends in a dead end (only if the tables of the completion are not exact).
    """
    prefix: list[int] = []
    spent = completion.spent(prefix)
    for decision, option in enumerate(wish):
        legal = [int(o) for o in np.flatnonzero(completion.options(prefix, spent))]
        if not legal:
            return None
        chosen = int(option) if option in legal else widths.nearest(decision, int(option), legal)
        spent = completion.extended(prefix, spent, chosen)
        prefix.append(chosen)
    return tuple(prefix)


def moved(problem: Problem, widths: Widths, row: Row, decision: int, option: int) -> Row | None:
    """Set one option; related decisions follow to the nearest option that fits; None if none does."""
    changes, _ = followed(problem, widths, row, decision, option)
    if changes is None:
        return None
    changed = list(row)
    for other, now in changes.items():
        changed[other] = now
    return tuple(changed)


def followed(
    problem: Problem, widths: Widths, row: Sequence[int], decision: int, option: int
) -> tuple[dict[int, int] | None, set[int]]:
    """Return what setting one option changes (None if a related decision has none that fits), and what was read."""
    tables = problem.tables
    changes, queue, read = {decision: option}, [decision], {decision}
    while queue:
        here = queue.pop()
        for edge in tables.relations_of[here]:
            other = edge[0] if edge[1] == here else edge[1]
            read.add(other)
            now = changes.get(other, row[other])
            allowed = tables.relations[edge]
            line = allowed[:, changes[here]] if other == edge[0] else allowed[changes[here]]
            if line[now]:
                continue
            legal = [int(o) for o in np.flatnonzero(line & tables.legal[other])]
            if other in changes or not legal:
                return None, read
            changes[other] = widths.nearest(other, now, legal)
            queue.append(other)
    return changes, read


def neighbours(problem: Problem, widths: Widths, row: Row) -> list[Row]:
    """Return every policy that differs in one decision, and in what must follow it; budgets may be broken."""
    found = set()
    for decision, legal in enumerate(problem.tables.legal):
        for option in np.flatnonzero(legal):
            if option != row[decision]:
                changed = moved(problem, widths, row, decision, int(option))
                if changed is not None:
                    found.add(changed)
    return sorted(found)
