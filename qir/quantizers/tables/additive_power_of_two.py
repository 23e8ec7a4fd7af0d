"""Additive powers of two (Li, Dong, Wang, APoT, ICLR 2020)."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import ClassVar

import numpy as np

from qir.quantizers.fitting import least_squares_ranges
from qir.quantizers.parameters import SMALLEST_SCALE, Float, QuantParameters, Storage
from qir.quantizers.scheme import Scheme
from qir.quantizers.tables.codebook import codebook


@cache
def unit_levels(bits: int) -> tuple[float, ...]:
    """Return sums of powers of two with `bits` bits and no sign; the largest is scaled to 1 (APoT eq. 5, k = 2).

    Term i of n = bits // 2 is one of 0, 2**-(i+1), 2**-(n+i+1), 2**-(2n+i+1): the exponents are dealt out in turn, so
    that no two sums are equal. An odd bit adds a term with the one exponent 2n+1, and moves the third ones up by one.
    """
    terms, odd = bits // 2, bits % 2
    sums = np.zeros(1)
    for term in range(terms):
        powers = [2.0 ** -(term + 1), 2.0 ** -(terms + term + 1), 2.0 ** -(2 * terms + odd + term + 1)]
        sums = np.add.outer(sums, np.array([0.0, *powers])).reshape(-1)
    if odd:
        sums = np.add.outer(sums, np.array([0.0, 2.0 ** -(2 * terms + 1)])).reshape(-1)
    return tuple((np.sort(sums) / sums.max()).tolist())


@dataclass(frozen=True)
class AdditivePowerOfTwo(Scheme):
    """Levels `g * (sum of powers of two)`, the nearest one wins; signed: one bit is the sign, so 2**b - 1 levels.

    The stored range is (-g, g), unsigned (0, g). `fit` takes the g of least squared error among 24 fractions of the
    largest magnitude.
    """

    name: ClassVar[str] = "additive-power-of-two"
    widths: ClassVar[tuple[int, ...]] = tuple(range(2, 9))
    storage: ClassVar[Storage] = Storage.CODEBOOK

    def _parameters(self, ranges: Float, bits: int, signed: bool, narrow: bool) -> QuantParameters:  # noqa: ARG002
        top = np.maximum(np.abs(ranges).max(axis=1) if signed else ranges[:, 1], SMALLEST_SCALE).astype(np.float64)
        unit = np.array(unit_levels(bits - 1 if signed else bits))
        levels = np.concatenate([-unit[:0:-1], unit]) if signed else unit
        return codebook(top[:, None] * levels, bits, signed)

    def _fit(self, rows: Float, bits: int, signed: bool, narrow: bool) -> Float:
        return least_squares_ranges(self, rows, bits, signed, narrow, ratios=np.linspace(1.0, 0.08, 24).tolist())
