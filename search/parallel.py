"""Where objectives run: in this process, in local processes, or on a Dask cluster; the results are the same."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

from qir.policy import Policy

Objective = Callable[[Policy], float]


@dataclass(frozen=True, slots=True)
class Measured:
    """What measuring a policy gave: value (NaN if it failed), wall seconds, and the error in words or None."""

    value: float
    seconds: float
    error: str | None


class Executor(Protocol):
    """Measures policies; yields in the order given, whatever order they finish in."""

    def measure(self, objective: Objective, policies: Sequence[Policy]) -> Iterator[Measured]:
        """Value, time and error of each policy."""
        ...


def measure_one(objective: Objective, policy: Policy) -> Measured:
    """Call the objective; an exception or a NaN becomes a failed measurement."""
    start = time.perf_counter()
    try:
        value = float(objective(policy))
        error = None if math.isfinite(value) else f"the objective is {value}"
    except Exception as problem:  # noqa: BLE001 - an objective is the user's code: recorded, skipped, counted
        value, error = math.nan, f"{type(problem).__name__}: {problem}"
    return Measured(value if error is None else math.nan, time.perf_counter() - start, error)


class InProcess:
    """Runs objectives one after the other in this process."""

    def measure(self, objective: Objective, policies: Sequence[Policy]) -> Iterator[Measured]:
        """Value, time and error of each policy."""
        for policy in policies:
            yield measure_one(objective, policy)
