"""Scales from ranges, safe for dead channels and tiny ranges."""

from __future__ import annotations

import numpy as np

from qir.quantizers.parameters import DEAD_SCALE, SMALLEST_SCALE, Float, Int


def largest_magnitude(ranges: Float) -> Float:
    """Return the larger absolute end of each range: float32 [channels]."""
    return np.asarray(np.abs(ranges).max(axis=1), dtype=np.float32)


def integer_scale(span: Float, steps: int) -> Float:
    """Divide spans into steps: `span / steps` in float32.

    A span of zero (dead channel) gets `DEAD_SCALE`, a smaller quotient than `SMALLEST_SCALE` is raised to it.

    Args:
        span: float32 [channels], not negative.
        steps: number of steps in the span.
    """
    with np.errstate(under="ignore"):
        scale = np.maximum(span / np.float32(steps), SMALLEST_SCALE)
    return np.where(span > 0, scale, DEAD_SCALE).astype(np.float32)


def bipolar_scale(magnitude: Float) -> Float:
    """Scale of a grid without zero: the magnitude itself, at least `SMALLEST_SCALE`, so that dead channels stay ~0."""
    return np.maximum(magnitude, SMALLEST_SCALE).astype(np.float32)


def power_of_two(exponent: Float) -> Float:
    """`2 ** exponent` in float32, exact for integers, at least `SMALLEST_SCALE`.

    Args:
        exponent: [channels], integers; -inf (dead channel) gives `DEAD_SCALE`.
    """
    dead = np.isneginf(exponent)
    exact = np.ldexp(np.float32(1.0), np.clip(np.where(dead, 0, exponent), -60, 127).astype(np.int32))
    return np.where(dead, DEAD_SCALE, exact).astype(np.float32)


def floor_log2(magnitude: Float) -> Float:
    """Return exact `floor(log2(m))` of float32 values; -inf for zero."""
    return np.where(magnitude > 0, np.frexp(magnitude)[1] - 1, -np.inf).astype(np.float32)


def ceil_log2(magnitude: Float) -> Float:
    """Return exact `ceil(log2(m))` of float32 values; -inf for zero."""
    mantissa, exponent = np.frexp(magnitude)
    return np.where(magnitude > 0, exponent - (mantissa == 0.5), -np.inf).astype(np.float32)


def zeros(channels: int) -> Int:
    """Return zero points of a symmetric grid: int32 [channels]."""
    return np.zeros(channels, dtype=np.int32)
