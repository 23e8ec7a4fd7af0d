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

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias, get_args

import numpy as np

from qir.backends.integer.ratios import Ratio, dyadic, rounded_quotient
from qir.errors import QirError
from qir.tensor import Array

Requantization: TypeAlias = Literal["float32", "dyadic", "power-of-two"]
"""Arithmetic of requantization."""

REQUANTIZATIONS: tuple[Requantization, ...] = get_args(Requantization)
LARGEST_SHIFT = 62
"""A 32-bit sum times a mantissa stays below 2^62: with a larger shift every code is the zero point."""


@dataclass(frozen=True, eq=False)
class Term:
    """A summand of a result, `integers · scales`, and what the sum is divided by.

    Attributes:
        integers: exact integers, int64.
        scales: one or two float32 arrays whose product is the factor, broadcastable to `integers`.
        count: what a mean divides by, positive int64, broadcastable to `integers`; 1 in sums of several terms.
    """

    integers: Array
    scales: tuple[Array | np.float32, ...]
    count: Array

    @property
    def factor(self) -> Array:
        """The product of the scales in float32."""
        return np.asarray(math.prod(self.scales), np.float32)


def term(integers: Array, *scales: Array | np.float32, count: Array | int = 1) -> Term:
    """Return a summand with the product of float32 scales as its factor."""
    return Term(np.asarray(integers).astype(np.int64), scales, np.asarray(count, np.int64))


def requantized(terms: Sequence[Term], scale: np.float32, kind: Requantization, where: str) -> Array:
    """Return rounded `value / scale` of a sum of terms, integers only: int64, before zero point and saturation.

    Args:
        terms: the summands.
        scale: float32 scale of the output grid.
        kind: `dyadic` or `power-of-two`.
        where: the node, for the message.

    Raises:
        QirError: power-of-two, and a ratio of scales is none.
    """
    ratios = [Ratio.of(term.scales, scale) for term in terms]
    mantissas, shift = shifts(*ratios, where=where) if kind == "power-of-two" else dyadic(*ratios)
    products = [(term.integers, mantissa) for term, mantissa in zip(terms, mantissas, strict=True)]
    return _quotient(_sum(products), shift, terms[0].count)


def shifts(*ratios: Ratio, where: str) -> tuple[tuple[Array, ...], Array]:
    """Like `dyadic` for exact powers of two: mantissas are powers of two, the smallest 1 where the shift is positive.

    Raises:
        QirError: a ratio is not a power of two; names the node `where`.
    """
    exponents = []
    for ratio in ratios:
        if (found := ratio.binary_exponents()) is None:
            raise QirError(
                f"node {where!r}: its ratio of scales {ratio.floats().reshape(-1)[0]:g} is not a power of two: run the "
                "pass power-of-two-scales before export, or choose dyadic requantization"
            )
        exponents.append(found)
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
