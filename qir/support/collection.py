"""Bulk building without garbage collection: it makes many objects and little garbage, so searching it is in vain."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager

MANY = 20_000
"""New objects from which on they are aged at once instead of being searched."""

MOST_AGED = 2_000_000
"""Objects that are aged before all are searched."""

_aged = 0


@contextmanager
def no_collection() -> Iterator[None]:
    """No garbage collection inside; what was built counts as old afterwards, as if collections had passed over it.

    Without that the first allocation afterwards would search all that was built. Full collections still come: when
    many objects were aged, one is made here. Nothing happens where collection is off already.
    """
    global _aged
    if not gc.isenabled():
        yield
        return
    gc.disable()
    try:
        yield
    finally:
        made = gc.get_count()[0]
        if made > MANY and gc.get_freeze_count() == 0:
            _aged += made
            if _aged > MOST_AGED:
                gc.collect()
                _aged = 0
            else:
                gc.freeze()
                gc.unfreeze()
        gc.enable()
