"""Ranges of least squared error."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from qir.quantizers.parameters import Float
from qir.quantizers.scheme import Scheme

SAMPLES = 1 << 16
"""At most so many values per channel are looked at, evenly spread over the channel."""


def least_squares_ranges(
    scheme: Scheme, rows: Float, bits: int, signed: bool, narrow: bool, ratios: Sequence[float]
) -> Float:
    """Try fractions of the full range and keep, per channel, the one of least squared error.

    Args:
        scheme: whose grid is tried.
        rows: data [channels, elements].
        bits: width.
        signed: whether negative values are represented.
        narrow: leave the most negative code out.
        ratios: fractions of the range that clips nothing; the first of equals wins.

    Returns:
        float32 [channels, 2].
    """
    sample = rows[:, :: max(1, rows.shape[1] // SAMPLES)]
    high = (np.abs(rows) if signed else np.maximum(rows, 0)).max(axis=1)
    full = np.stack([-high if signed else np.zeros_like(high), high], axis=1)
    best, least = full, np.full(len(rows), np.inf)
    for ratio in ratios:
        ranges = (full * np.float32(ratio)).astype(np.float32)
        error = scheme.fake_quantize(sample, scheme.parameters(ranges, bits, signed, narrow), axis=0) - sample
        loss = np.square(error, dtype=np.float64).mean(axis=1)
        better = loss < least
        best, least = np.where(better[:, None], ranges, best), np.where(better, loss, least)
    return best
