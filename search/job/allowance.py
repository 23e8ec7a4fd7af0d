"""The time that a job may take, and what a result says where its choice ended early."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Generic, TypeVar

from qir.errors import QirError
from qir.search.metrics.pace import INTERRUPTED, TIME_LIMIT
from qir.search.problem.result import Result
from qir.search.problem.sensitivity import Sensitivity

T = TypeVar("T")

LEAST = 1.0
"""Seconds that a search gets at least: it returns something all the same."""


@dataclass(frozen=True, slots=True)
class Allowance:
    """Seconds from a start. What comes after the choice of bits is kept as long as what came before it.

    Attributes:
        start: `time.monotonic()` of the start.
        seconds: how long it may take; None for any time.
    """

    start: float
    seconds: float | None

    @classmethod
    def of(cls, seconds: float | None) -> Allowance:
        """So many seconds from now.

        Raises:
            QirError: they are not more than 0.
        """
        if seconds is not None and not seconds > 0:
            raise QirError(f"time limit: {seconds}; expected seconds, more than 0")
        return cls(time.monotonic(), seconds)

    @property
    def left(self) -> float | None:
        """Seconds that are left; None for any time."""
        return None if self.seconds is None else max(self.start + self.seconds - time.monotonic(), 0.0)

    def of_choice(self) -> float | None:
        """When the choice of bits has to end, as `time.monotonic()`.

        Correction, export and its checks come after it; they are given as long as everything took so far, at most half
        of what is left.
        """
        left, now = self.left, time.monotonic()
        return None if left is None else now + left - min(now - self.start, left / 2)

    def for_choice(self) -> float | None:
        """Return seconds that the choice of bits may still take; None for any time."""
        end = self.of_choice()
        return None if end is None else max(end - time.monotonic(), LEAST)


def ended(result: Result, measured: Sensitivity) -> Result:
    """Return a result that says how its sensitivities were measured, where they ended early or not as by default."""
    notes = (*result.notes, *((measured.note,) if measured.note else ()))
    return replace(result, status=measured.stopped or result.status, notes=notes)


class Extras(Generic[T]):
    """Work that a result is whole without: done while there is time, and until the user interrupts it.

    Attributes:
        skipped: names of what was not done.
    """

    def __init__(self, allowance: Allowance, seconds: float) -> None:
        """Take what one piece of work takes, in seconds, as far as that is known."""
        self._allowance, self._seconds, self._reason = allowance, seconds, ""
        self.skipped: list[str] = []

    def do(self, name: str, work: Callable[[], T], otherwise: T) -> T:
        """Return the result of the work, or something else where it is skipped."""
        left, start = self._allowance.left, time.monotonic()
        if not self._reason and left is not None and left < self._seconds:
            self._reason = TIME_LIMIT
        if not self._reason:
            try:
                done = work()
            except KeyboardInterrupt:
                self._reason = INTERRUPTED
            else:
                self._seconds = max(self._seconds, time.monotonic() - start)
                return done
        self.skipped.append(name)
        return otherwise

    @property
    def notes(self) -> tuple[str, ...]:
        """What a reader should know: what was skipped, and why."""
        return (f"not measured: {', '.join(self.skipped)} ({self._reason})",) if self.skipped else ()
