"""Uniform grid with a power-of-two threshold (Habi et al., HMQ, 2020)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from qir.quantizers.affine.uniform import signed_codes
from qir.quantizers.fitting import least_squares_ranges
from qir.quantizers.parameters import Float, QuantParameters, Storage
from qir.quantizers.scales import ceil_log2, largest_magnitude, power_of_two, zeros
from qir.quantizers.scheme import Scheme


@dataclass(frozen=True)
class PowerOfTwo(Scheme):
    """Integers times a power of two: `t = 2**ceil(log2(max|range|))`, scale `t / 2**(b-1)`, unsigned `t / 2**b`.

    Scales of this kind make every engine agree to the bit, and requantization a shift. `fit` takes, of the smallest
    threshold that clips nothing and the three below it, the one of least squared error (HMQ's candidate thresholds).
    """

    name: ClassVar[str] = "power-of-two"
    widths: ClassVar[tuple[int, ...]] = tuple(range(2, 17))
    storage: ClassVar[Storage] = Storage.INTEGER

    def _parameters(self, ranges: Float, bits: int, signed: bool, narrow: bool) -> QuantParameters:
        magnitude = largest_magnitude(ranges) if signed else np.maximum(ranges[:, 1], 0)
        scale = power_of_two(ceil_log2(magnitude) - np.float32(bits - 1 if signed else bits))
        low, high = signed_codes(bits, narrow) if signed else (0, (1 << bits) - 1)
        return QuantParameters(bits, signed, scale, zeros(len(ranges)), low, high)

    def _fit(self, rows: Float, bits: int, signed: bool, narrow: bool) -> Float:
        return least_squares_ranges(self, rows, bits, signed, narrow, ratios=(1.0, 0.5, 0.25, 0.125))
