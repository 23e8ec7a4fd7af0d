"""Which prefixes of a walk still lead to a policy that was not visited."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from qir.search.problem.completion import Completion
from qir.search.problem.tables import Bools


class Trie:
    """Remembers visited policies and the prefixes that are used up.

    Args:
        completion: says which options are legal after a prefix.
    """

    def __init__(self, completion: Completion) -> None:
        self._completion = completion
        self._used: set[tuple[int, ...]] = set()

    @property
    def exhausted(self) -> bool:
        """Every legal policy was visited."""
        return () in self._used

    def novel(self, prefix: Sequence[int], mask: Bools) -> Bools:
        """Return the options of a mask that lead to a policy that was not visited; the mask itself if none does."""
        start = tuple(prefix)
        fresh = mask.copy()
        for option in np.flatnonzero(mask):
            fresh[option] = (*start, int(option)) not in self._used
        return fresh if fresh.any() else mask

    def mark(self, row: Sequence[int]) -> None:
        """Note that a policy was visited."""
        path = tuple(row)
        self._used.add(path)
        while path:
            path = path[:-1]
            legal = np.flatnonzero(self._completion.options(path))
            if any((*path, int(option)) not in self._used for option in legal):
                return
            self._used.add(path)
