"""Multipliers from sums to codes, in every arithmetic.

The real multiplier of a channel is `s_x·s_w / s_y`; Add and Concat multiply each operand by `s_i / s_y`, Mul the
product by `s_a·s_b / s_y`, a mean divides by its count as well. `qir.backends.integer.requantization` defines
the arithmetics and executes them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod

import numpy as np

from qir.backends.integer.ratios import Ratio, dyadic
from qir.backends.integer.requantization import LARGEST_SHIFT
from qir.tensor import Array


@dataclass(frozen=True, eq=False)
class Multipliers:
    """Multipliers of one or several operands.

    Attributes:
        float32: one array [channels] an operand: the scales multiplied and divided in float32.
        mantissa: one int64 array [channels] an operand, below 2^31; 0 where no sum reaches half a code.
        shift: int64 [channels], 0 to 62, common to the operands.
        exponent: `multiplier = 2^exponent`, one int64 array [channels] an operand; None unless all are powers of two.
        count: what a mean divides by; 1 elsewhere, None where windows differ.
    """

    float32: tuple[Array, ...]
    mantissa: tuple[Array, ...]
    shift: Array
    exponent: tuple[Array, ...] | None
    count: int | None = 1

    @staticmethod
    def of(products: Sequence[tuple[Array, ...]], output: np.float32, count: int | None = 1) -> Multipliers:
        """Return the multipliers from products of scales to an output scale.

        Args:
            products: the scales [channels or 1] that each operand's integers count in.
            output: scale of the result.
            count: what a mean divides by.
        """
        exact = [Ratio.of(scales, output) for scales in products]
        with np.errstate(over="ignore", under="ignore"):
            float32 = tuple(np.asarray(prod(scales) / output, np.float32) for scales in products)
        mantissas, shift = dyadic(*exact)
        vanishing = shift > LARGEST_SHIFT
        exponents = tuple(found for ratio in exact if (found := ratio.binary_exponents()) is not None)
        return Multipliers(
            float32,
            tuple(np.where(vanishing, 0, mantissa) for mantissa in mantissas),
            np.where(vanishing, 0, shift),
            exponents if len(exponents) == len(exact) else None,
            count,
        )
