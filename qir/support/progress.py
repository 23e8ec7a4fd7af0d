"""How far long work is: stages tell it, without being handed anything.

    with told(print), stage("calibration"):
        for number, feed in enumerate(feeds):
            advance(number, len(feeds))

Whoever listens is kept by context, as loggers and warnings are; where no one does, `advance` costs nothing.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Step:
    """How far a stage is.

    Attributes:
        stage: what is done.
        done: parts that are done.
        total: parts in all; 0 where that is not known.
        seconds: wall time since the stage began.
    """

    stage: str
    done: int = 0
    total: int = 0
    seconds: float = 0.0

    @property
    def left(self) -> float | None:
        """Seconds until the stage ends, if the rest goes as fast as what is done; None where that is not known."""
        if not self.done or not self.total:
            return None
        return self.seconds / self.done * max(self.total - self.done, 0)


_LOG = logging.getLogger("qir")

Listener = Callable[[Step], None]

_LISTENER: ContextVar[Listener | None] = ContextVar("listener", default=None)
_STAGE: ContextVar[tuple[str, float]] = ContextVar("stage", default=("", 0.0))


@contextmanager
def told(listener: Listener | None) -> Iterator[None]:
    """Inside, the listener hears every stage; None keeps the one that listens already."""
    token = _LISTENER.set(listener or _LISTENER.get())
    try:
        yield
    finally:
        _LISTENER.reset(token)


@contextmanager
def stage(name: str) -> Iterator[None]:
    """Inside, what advances is a part of this stage; a stage inside another one goes by its own name.

    The logger `qir` is told at its end how long it took.
    """
    start = time.monotonic()
    token = _STAGE.set((name, start))
    advance(0, 0)
    try:
        yield
    finally:
        _STAGE.reset(token)
        _LOG.info("%s: %.1f s", name, time.monotonic() - start)


def advance(done: int, total: int) -> None:
    """Tell that so many parts of the stage are done; `total` is 0 where it is not known."""
    listener, (name, start) = _LISTENER.get(), _STAGE.get()
    if listener is not None and name:
        listener(Step(name, done, total, time.monotonic() - start))
