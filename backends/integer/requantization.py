"""Requantization: from exact integers to the codes of an output grid, in one of three arithmetics.

A result of integer arithmetic is a sum of terms `integers · factor`, each factor a product of float32 scales taken as
an exact rational; a mean divides the sum by its count. Its code on an output grid is `round(value / s_y) + zero_point`.

- `float32`: the float32 steps of ONNX Runtime's fused kernels; they stand with each result
  (`integer_reference_values`), because every kernel has its own.
- `dyadic`: `q = round((Σ a_i·M_i) / 2^n) + zero_point` with int32 mantissas `M_i` and one shift `n` a channel, the
  largest mantissa in [2^30, 2^31): Jacob et al. 2018, section 2.2 (`M = 2^-n M_0`), for several operands as in
  HAWQ-V3 (Yao et al. 2021). Mantissas are the exact ratio of the float32 scales, rounded half to even.
- `power-of-two`: ratios of scales are exact powers of two, so that multipliers are shifts.

In the last two a mean is `round(a·M / (2^n·count))`, and `round` is half to even of the exact quotient, once, as in
ONNX QuantizeLinear (gemmlowp's rounding doubling high multiply rounds twice and moves ties away from zero). No float
takes part but the scales, before a run.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, Literal, TypeAlias, get_args

import numpy as np

from qir.errors import QirError
from qir.tensor import Array

Requantization: TypeAlias = Literal["float32", "dyadic", "power-of-two"]
"""Arithmetic of requantization."""

REQUANTIZATIONS: tuple[Requantization, ...] = get_args(Requantization)
MANTISSA_BITS = 31
"""Width of a dyadic multiplier's mantissa without its sign."""

LARGEST_SHIFT = 62
"""A 32-bit sum times a mantissa stays below 2^62: with a larger shift every code is the zero point."""

_exact = np.frompyfunc(lambda value: Fraction(float(value)), 1, 1)
_rounded = np.frompyfunc(round, 1, 1)
_exponent = np.frompyfunc(lambda ratio: _floor_log2(ratio), 1, 1)
_scaled = np.frompyfunc(lambda ratio, shift: ratio * Fraction(2) ** int(shift), 2, 1)


@dataclass(frozen=True, eq=False)
class Term:
    """A summand of a result, `integers · factor`, and what the sum is divided by.

    Attributes:
        integers: exact integers, int64.
        factor: `Fraction`s, broadcastable to `integers`.
        count: what a mean divides by, positive int64, broadcastable to `integers`; 1 in sums of several terms.
    """

    integers: Array
    factor: Array
    count: Array


def exact_product(*scales: Array | np.float32) -> Array:
    """The product of float32 scales as `Fraction`s: object array, shapes broadcast."""
    found = np.asarray(Fraction(1), object)
    for scale in scales:
        found = np.asarray(found * np.asarray(_exact(np.asarray(scale)), object), object)
    return found


def term(integers: Array, *scales: Array | np.float32, count: Array | int = 1) -> Term:
    """A summand with the product of float32 scales as its factor."""
    return Term(np.asarray(integers).astype(np.int64), exact_product(*scales), np.asarray(count, np.int64))


def dyadic(*ratios: Array) -> tuple[tuple[Array, ...], Array]:
    """The mantissas of one or several factors and their common shift: `ratio ≈ mantissa / 2^shift`.

    Args:
        ratios: arrays of `Fraction`s, not negative, shapes broadcast.

    Returns:
        int64 mantissas of each ratio, the largest in [2^30, 2^31) (0 where all ratios are 0), and the int64 shift.
    """
    largest = np.asarray(np.maximum.reduce(np.broadcast_arrays(*ratios)), object)
    shift = MANTISSA_BITS - 1 - np.asarray(_exponent(largest), np.int64)
    full = np.asarray(_rounded(_scaled(largest, shift)), np.int64) == 2**MANTISSA_BITS
    shift = np.asarray(shift - full, np.int64)
    return tuple(np.asarray(_rounded(_scaled(ratio, shift)), np.int64) for ratio in ratios), shift


def binary_exponent(ratio: Fraction) -> int | None:
    """`k` when the ratio is exactly `2^k`, else None."""
    low, high = ratio.numerator, ratio.denominator
    if low <= 0 or low & (low - 1) or high & (high - 1):
        return None
    return low.bit_length() - high.bit_length()


def requantized(terms: Sequence[Term], scale: np.float32, kind: Requantization, where: str) -> Array:
    """Rounded `value / scale` of a sum of terms, integers only: int64, before zero point and saturation.

    Args:
        terms: the summands.
        scale: float32 scale of the output grid.
        kind: `dyadic` or `power-of-two`.
        where: the node, for the message.

    Raises:
        QirError: power-of-two, and a ratio of scales is none.
    """
    step = Fraction(float(scale))
    ratios = [np.asarray(term.factor / step, object) for term in terms]
    mantissas, shift = shifts(*ratios, where=where) if kind == "power-of-two" else dyadic(*ratios)
    products = [(term.integers, mantissa) for term, mantissa in zip(terms, mantissas, strict=True)]
    return _quotient(_sum(products), shift, terms[0].count)


def rounded_quotient(numerator: Array, denominator: Array) -> Array:
    """`numerator / denominator` rounded half to even, exact for integers of any size; denominators are positive."""
    floor = numerator // denominator
    rest = numerator - floor * denominator
    above = denominator - rest
    return np.asarray(floor + ((rest > above) | ((rest == above) & (floor % 2 == 1))))


def shifts(*ratios: Array, where: str) -> tuple[tuple[Array, ...], Array]:
    """Like `dyadic` for exact powers of two: mantissas are powers of two, the smallest 1 where the shift is positive.

    Raises:
        QirError: a ratio is not a power of two; names the node `where`.
    """
    exponents = [_exponents(ratio, where) for ratio in ratios]
    shift = max(0, -min(int(exponent.min()) for exponent in exponents))
    mantissas = tuple(np.asarray(2 ** (exponent + shift).astype(object), object) for exponent in exponents)
    return mantissas, np.asarray(shift, np.int64)


def _quotient(numerator: Array, shift: Array, count: Array) -> Array:
    """`numerator / (2^shift · count)` rounded half to even: int64."""
    if numerator.dtype != object and (shift >= 0).all() and int(count.max()) == 1:
        small = np.minimum(shift, LARGEST_SHIFT)
        return np.where(shift > LARGEST_SHIFT, 0, rounded_quotient(numerator, np.int64(1) << small))
    power = np.asarray(2 ** np.abs(shift).astype(object), object)
    up, down = np.where(shift < 0, power, 1), np.where(shift < 0, 1, power)
    return _narrow(rounded_quotient(numerator.astype(object) * up, np.asarray(down * count.astype(object), object)))


def _exponents(ratios: Array, where: str) -> Array:
    found = [binary_exponent(ratio) for ratio in ratios.reshape(-1)]
    for ratio, exponent in zip(ratios.reshape(-1), found, strict=True):
        if exponent is None:
            raise QirError(
                f"node {where!r}: its ratio of scales {float(ratio):g} is not a power of two: run the pass "
                "power-of-two-scales before export, or choose dyadic requantization"
            )
    return np.asarray(found, np.int64).reshape(ratios.shape)


def _sum(products: Sequence[tuple[Array, Array]]) -> Array:
    """Σ integers · factors: int64 where that holds every sum, else Python integers."""
    reach = sum(_largest(integers) * _largest(factors) for integers, factors in products)
    if reach >= 2**LARGEST_SHIFT:
        return np.asarray(sum(i.astype(object) * f.astype(object) for i, f in products), object)
    total: Any = sum(integers * factors.astype(np.int64) for integers, factors in products)
    return np.asarray(total, np.int64)


def _largest(array: Array) -> int:
    return max(abs(int(array.min())), abs(int(array.max()))) if array.size else 0


def _narrow(values: Array) -> Array:
    """Python integers as int64, saturated: codes beyond 32 bits saturate anyway."""
    return np.asarray(np.clip(values, -(2**LARGEST_SHIFT), 2**LARGEST_SHIFT), np.int64)


def _floor_log2(ratio: Fraction) -> int:
    if ratio <= 0:
        return 0
    guess = ratio.numerator.bit_length() - ratio.denominator.bit_length()
    return guess if Fraction(2) ** guess <= ratio else guess - 1
