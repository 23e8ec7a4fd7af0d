"""Two executors on the same samples: what any two of them compute differently, counted batch by batch."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field

import numpy as np

from qir.backends.execution.executor import Executor, Run
from qir.errors import DataError
from qir.tensor import Array

CLOSE = 1e-5
"""Floats that differ by less than this part of the largest output stand for the same code."""

FAR, MOST = 0.05, 0.5
"""Where more than `MOST` of the outputs are off by this part of the largest one, two networks are not the same."""


@dataclass
class Differences:
    """What two executors compute differently, over all batches so far.

    Attributes:
        samples: number of samples.
        elements: elements of all outputs.
        unequal: how many of them differ at all, off: by more than `CLOSE`, far: by more than `FAR` of the largest one.
        largest: largest absolute difference of an element.
        flips: samples whose largest output differs, None once an output is not [N, classes].
        codes: codes that both show under the same name.
        mismatches: how many of them differ, by name of the value.
        not_finite: the first output of the second executor that is not finite, else empty.
    """

    samples: int = 0
    elements: int = 0
    unequal: int = 0
    off: int = 0
    far: int = 0
    largest: float = 0.0
    flips: int | None = 0
    codes: int = 0
    mismatches: dict[str, int] = field(default_factory=dict)
    not_finite: str = ""

    @property
    def strangers(self) -> bool:
        """Whether the two compute other networks: no rounding explains how far they are apart."""
        return self.far > MOST * self.elements

    def add(self, feed: Mapping[str, Array], expected: Run, found: Run) -> None:
        """Count one batch.

        Raises:
            DataError: one of the two lacks an output of the other, or gives it another shape.
        """
        self.samples += next((len(array) for array in feed.values() if array.ndim), 1)
        for name, output in expected.outputs.items():
            self._add_output(name, output, found.outputs.get(name))
        for name in expected.codes.keys() & found.codes.keys():
            self._add_codes(name, expected.codes[name], found.codes[name])

    def _add_output(self, name: str, expected: Array, found: Array | None) -> None:
        if found is None or found.shape != expected.shape:
            shape = "missing" if found is None else f"of shape {found.shape}"
            raise DataError(f"output {name!r} is {shape} in the other executor; expected {expected.shape}")
        if found.dtype.kind not in "biuf":
            return
        if not self.not_finite and not np.isfinite(found).all():
            self.not_finite = name
        exact, other = expected.astype(np.float64), found.astype(np.float64)
        scale = float(np.abs(exact).max(initial=0))
        with np.errstate(invalid="ignore"):
            difference = np.where(exact == other, 0.0, np.abs(other - exact))
        self.elements += difference.size
        self.unequal += int(np.count_nonzero(difference))
        self.off += int((difference > CLOSE * scale).sum())
        self.far += int((difference > FAR * scale).sum())
        self.largest = max(self.largest, float(difference.max(initial=0)))
        self._add_flips(expected, found)

    def _add_flips(self, expected: Array, found: Array) -> None:
        if expected.ndim != 2:
            self.flips = None
        elif self.flips is not None:
            self.flips += int((found.argmax(-1) != expected.argmax(-1)).sum())

    def _add_codes(self, name: str, expected: Array, found: Array) -> None:
        self.codes += expected.size
        if differing := int((expected.astype(np.int64) != found.astype(np.int64)).sum()):
            self.mismatches[name] = self.mismatches.get(name, 0) + differing


def pairs(
    first: Executor, second: Executor, feeds: Iterable[Mapping[str, Array]]
) -> Iterator[tuple[Mapping[str, Array], Run, Run]]:
    """Yield each feed with what both executors compute of it; an executor held against itself runs once."""
    for feed in feeds:
        run = first.run(feed)
        yield feed, run, run if second is first else second.run(feed)
