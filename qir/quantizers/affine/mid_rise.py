"""Mid-rise grids: levels at odd multiples of half a step, none at zero."""

from __future__ import annotations

import numpy as np

from qir.quantizers.parameters import Float, QuantParameters
from qir.quantizers.scales import bipolar_scale, largest_magnitude, zeros


def mid_rise_parameters(ranges: Float, bits: int) -> QuantParameters:
    """Return `a * (clip(floor(x / a), -2**(b-1), 2**(b-1) - 1) + 1/2)` with a = larger end of the range / 2**(b-1).

    Codes are the odd integers `2 * floor(x / a) + 1`, the scale is a / 2.
    """
    scale = bipolar_scale(largest_magnitude(ranges) / np.float32(1 << bits))
    return QuantParameters(bits, True, scale, zeros(len(ranges)), 1 - (1 << bits), (1 << bits) - 1, code_step=2)


def step_ranges(step: Float, bits: int) -> Float:
    """Return ranges of the mid-rise grid with a step per channel: (-a 2**(b-1), a 2**(b-1))."""
    high = (step * np.float32(1 << (bits - 1))).astype(np.float32)
    return np.stack([-high, high], axis=1)


def deviation(rows: Float) -> Float:
    """Return the standard deviation per channel, computed in float64."""
    return np.asarray(rows.std(axis=1, dtype=np.float64), dtype=np.float32)
