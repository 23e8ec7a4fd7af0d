"""Exact quotients of float32 scales, `a · b / c`, in integers: what multipliers of requantization are rounded from.

A float32 number is an integer of 24 bits times a power of two, so that a product of two has 48 bits and every step
here, up to the mantissa of 31 bits, stays in int64.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from qir.tensor import Array

MANTISSA_BITS = 31
"""Width of a dyadic multiplier's mantissa without its sign."""

_BITS = 24
"""Width of a float32 number's integer."""

_VANISHED = 38
"""A quotient of 48 by 24 bits that is divided by 2^38 lies below a half."""


@dataclass(frozen=True, eq=False)
class Ratio:
    """`numerator / denominator · 2^exponent`, element by element.

    Attributes:
        numerator: int64, 0 or of magnitude [2^46, 2^48).
        denominator: int64 in [2^23, 2^24), broadcastable to the numerator.
        exponent: int64, of the numerator's shape.
    """

    numerator: Array
    denominator: Array
    exponent: Array

    @classmethod
    def of(cls, scales: tuple[Array | np.float32, ...], divisor: Array | np.float32) -> Ratio:
        """Return the product of one or two float32 arrays, shapes broadcast, divided by a positive one.

        Raises:
            ValueError: a scale is not finite, or the divisor 0.
        """
        first, second = (*scales, np.float32(1))[:2]
        (left, above), (right, more), (below, less) = map(_split, (first, second, divisor))
        if not below.all():
            raise ValueError("a scale is 0")
        return cls(np.asarray(left * right), below, np.asarray(above + more - less))

    def floor_log2(self) -> Array:
        """Return the largest `k` with 2^k <= the magnitude: int64; the smallest int32 for 0."""
        magnitude = np.abs(self.numerator)
        bits = np.frexp(magnitude.astype(np.float64))[1].astype(np.int64) - _BITS
        found = bits + self.exponent - (magnitude < self.denominator << np.maximum(bits, 0))
        return np.where(magnitude == 0, np.iinfo(np.int32).min, found)

    def rounded(self, shift: Array) -> Array:
        """Return the ratio times 2^shift, rounded half to even: int64; below 2^32 on request only."""
        power = self.exponent + shift
        up, down = np.clip(power, 0, 15), np.clip(-power, 0, _VANISHED)
        return rounded_quotient(self.numerator << up, self.denominator << down)

    def binary_exponents(self) -> Array | None:
        """`k` where every ratio is exactly 2^k: int64; None unless all are powers of two."""
        found = self.floor_log2()
        power = self.denominator << np.clip(found - self.exponent, 0, 2 * _BITS)
        return found if bool((self.numerator == power).all()) else None

    def floats(self) -> Array:
        """Return the nearest float64 numbers, for messages."""
        return np.ldexp(self.numerator / self.denominator, self.exponent)


def dyadic(*ratios: Ratio) -> tuple[tuple[Array, ...], Array]:
    """Return the mantissas of one or several ratios and their common shift: `ratio ≈ mantissa / 2^shift`.

    Args:
        ratios: shapes broadcast.

    Returns:
        int64 mantissas of each ratio, the largest in [2^30, 2^31) (0 where all ratios are 0), and the int64 shift.
    """
    largest = np.asarray(np.maximum.reduce(np.broadcast_arrays(*(ratio.floor_log2() for ratio in ratios))))
    shift = MANTISSA_BITS - 1 - np.where(largest == np.iinfo(np.int32).min, 0, largest)
    full = np.maximum.reduce([np.abs(ratio.rounded(shift)) for ratio in ratios]) == 2**MANTISSA_BITS
    shift = np.asarray(shift - full, np.int64)
    return tuple(np.asarray(ratio.rounded(shift), np.int64) for ratio in ratios), shift


def rounded_quotient(numerator: Array, denominator: Array) -> Array:
    """`numerator / denominator` rounded half to even, exact for integers of any size; denominators are positive."""
    floor = numerator // denominator
    rest = numerator - floor * denominator
    above = denominator - rest
    return np.asarray(floor + ((rest > above) | ((rest == above) & (floor % 2 == 1))))


def _split(scale: Array | np.float32) -> tuple[Array, Array]:
    """Return a float32 array as integers of 24 bits times powers of two: int64, 0 only for 0."""
    array = np.asarray(scale, np.float32)
    if not np.isfinite(array).all():
        raise ValueError("a scale is not finite")
    fraction, exponent = np.frexp(array)
    return np.ldexp(fraction, _BITS).astype(np.int64), exponent.astype(np.int64) - _BITS
