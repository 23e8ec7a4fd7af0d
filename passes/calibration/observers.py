"""Streaming histograms: one pass over the data, memory that does not grow with the number of batches."""

from __future__ import annotations

import numpy as np

from qir.errors import DataError
from qir.tensor import Array

BINS = 2048

_BLOCK = 1 << 15
"""Values that are counted at a time, so that they stay in the cache."""


class Histogram:
    """A histogram of a stream of values whose range grows by doubling.

    When a value falls outside, neighbouring bins are merged until the range covers it, so no value is ever seen twice.

    Attributes:
        counts: float64 [BINS], number of values in each bin.
        start, width: left edge of the first bin, width of every bin (in the unit of the values).
        low, high: exact smallest and largest value seen.
        total: number of values seen.
        sum_abs: sum of absolute values; `sum`, `sum_squares` likewise, for analytic thresholds.
        batch_lows, batch_highs: exact range of every batch, for the moving average.
    """

    def __init__(self) -> None:
        self.counts = np.zeros(BINS, np.float64)
        self.start = 0.0
        self.width = 0.0
        self.low = float("inf")
        self.high = -float("inf")
        self.total = 0
        self.average_low = 0.0
        self.average_high = 0.0
        self._batches = 0

    def update(self, values: Array, *, momentum: float = 0.9) -> None:
        """Add a batch of values of any shape.

        Raises:
            DataError: a value is NaN or infinite.
        """
        flat = np.asarray(values, np.float32).reshape(-1)
        if flat.size == 0:
            return
        low, high = float(flat.min()), float(flat.max())
        if not np.isfinite(low) or not np.isfinite(high):
            raise DataError(
                f"values range from {low} to {high}: NaN and infinities cannot be calibrated; check data and weights"
            )
        self._average(low, high, momentum)
        self.low, self.high = min(self.low, low), max(self.high, high)
        self.total += flat.size
        self._cover(low, high)
        start, scale = np.float32(self.start), np.float32(1.0 / self.width)
        for first in range(0, flat.size, _BLOCK):
            place = flat[first : first + _BLOCK] - start
            place *= scale
            np.minimum(place, np.float32(BINS - 1), out=place)
            self.counts += np.bincount(place.astype(np.intp), minlength=BINS)

    @property
    def centers(self) -> Array:
        """Middle of every bin: float64 [BINS]."""
        return self.start + self.width * (np.arange(BINS) + 0.5)

    def sample(self, size: int = 4096) -> Array:
        """Return values at evenly spaced ranks of the stream, known to within a bin: float32 [size], ascending.

        Raises:
            DataError: nothing was seen.
        """
        if self.total == 0:
            raise DataError("calibration has seen no values: give calibration data")
        ranks = (np.arange(size) + 0.5) / size * self.counts.sum()
        filled = self.counts > 0
        bins = np.searchsorted(np.cumsum(self.counts[filled]), ranks, side="right")
        values = self.centers[filled][np.minimum(bins, filled.sum() - 1)]
        return np.asarray(np.clip(values, self.low, self.high), np.float32)

    def _average(self, low: float, high: float, momentum: float) -> None:
        keep = momentum if self._batches else 0.0
        self.average_low = keep * self.average_low + (1 - keep) * low
        self.average_high = keep * self.average_high + (1 - keep) * high
        self._batches += 1

    def _cover(self, low: float, high: float) -> None:
        if self.width == 0.0:
            self.start = low
            smallest = max(float(np.finfo(np.float32).tiny) * BINS, abs(low) * 1e-7)
            self.width = max((high - low) / BINS * (1 + 1e-6), smallest)
        while high > self.start + self.width * BINS:
            self._merge(0)
        while low < self.start:
            self._merge(BINS // 2)
            self.start -= self.width * (BINS // 2)

    def _merge(self, offset: int) -> None:
        merged = self.counts.reshape(-1, 2).sum(axis=1)
        self.counts = np.zeros(BINS, np.float64)
        self.counts[offset : offset + BINS // 2] = merged
        self.width *= 2
