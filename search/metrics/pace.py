"""Means over samples that end early: when the time is over, or when the user interrupts."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

from qir.errors import SearchError
from qir.search.problem.sensitivity import Sensitivity
from qir.support.progress import advance

T = TypeVar("T")
Key = tuple[str, int]

TIME_LIMIT, INTERRUPTED = "time-limit", "interrupted"
"""Why measuring ended early."""


class NoGradientError(SearchError):
    """Torch derives nothing by the operands of a network."""


class TimeOverError(Exception):
    """The time is over in the middle of a sample; what was measured of it is dropped."""


@dataclass(frozen=True, slots=True)
class Pace:
    """When measuring has to end.

    Attributes:
        deadline: `time.monotonic()` at which to stop, or None.
    """

    deadline: float | None = None

    def check(self) -> None:
        """Raise `TimeOverError` once the time is over; called between the parts of one sample."""
        if self.deadline is not None and time.monotonic() > self.deadline:
            raise TimeOverError


@dataclass(frozen=True, slots=True)
class Means:
    """What samples told on the average.

    Attributes:
        values: mean of every key; empty where not even one sample was measured.
        samples: how many were measured.
        wanted: how many there are.
        stopped: why not all were, or empty.
    """

    values: dict[Key, float]
    samples: int
    wanted: int
    stopped: str = ""

    def sensitivity(
        self, metric: str, forward_passes: int, backward_passes: int = 0, more: Mapping[Key, float] | None = None
    ) -> Sensitivity:
        """Return the sensitivity that they are, with more values next to them.

        A note says where not all was measured.
        """
        note = f"sensitivities from {self.samples} of {self.wanted} samples ({self.stopped})" if self.stopped else ""
        values = {**(more or {}), **self.values}
        return Sensitivity(metric, values, forward_passes, backward_passes, self.stopped, note)


def mean_over(
    samples: Sequence[T], measure: Callable[[int, T], dict[Key, float]], pace: Pace | None, *, parts: int = 1
) -> Means:
    """Return the mean of what a function tells of each sample; ends with what there is at the deadline or at Ctrl-C.

    Args:
        samples: what is measured.
        measure: (number, sample) → a value for every key, the same keys for every sample.
        pace: when to end; None never does.
        parts: how many times `measure` tells its progress for one sample.
    """
    total: dict[Key, float] = {}
    count, stopped = 0, ""
    pace = pace or Pace()
    try:
        for number, sample in enumerate(samples):
            pace.check()
            found = measure(number, sample)
            total = {key: total.get(key, 0.0) + value for key, value in found.items()}
            count += 1
            advance(count * parts, len(samples) * parts)
    except TimeOverError:
        stopped = TIME_LIMIT
    except KeyboardInterrupt:
        stopped = INTERRUPTED
    return Means({key: value / count for key, value in total.items()}, count, len(samples), stopped)
