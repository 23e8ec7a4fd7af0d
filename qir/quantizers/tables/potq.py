"""Power-of-two levels (AutoQNN section 3.1.1, PotQ)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import ClassVar

import numpy as np

from qir.quantizers.affine.mid_rise import deviation
from qir.quantizers.parameters import SMALLEST_SCALE, Float, QuantParameters, Storage
from qir.quantizers.scheme import Scheme
from qir.quantizers.tables.codebook import codebook, nearest_two_sided

NORMAL_STEP: Mapping[int, float] = MappingProxyType({1: 1.5957691, 2: 0.7378994, 3: 0.2695421, 4: 0.0328034})
"""Unit of least squared error on a standard normal, per width (found by minimization; tested)."""

HALF_NORMAL_STEP: Mapping[int, float] = MappingProxyType({1: 1.2240063, 2: 0.5124985, 3: 0.0655696, 4: 0.00025640})
"""The same for the unsigned grid on the positive half of a standard normal."""

PAPER_STEP: Mapping[int, float] = MappingProxyType({2: 1.2240, 3: 0.5181, 4: 0.0381})
"""The units printed in AutoQNN; they are not the optimum of the printed grid (see `benchmarks/training/schemes.py`)."""


@dataclass(frozen=True)
class PotQ(Scheme):
    """Levels `a * sign(x) * 2**e`, e = -1, 1, 2, ..., 2**(b-1) - 1, with `a = std(x) * step[b]`.

    e = v - [v = 0] for v = clip(floor(log2(|x| / a) + 1/2), 0, 2**(b-1) - 1): the level a itself does not exist.
    Unsigned (an addition of this project): zero and `a * 2**k`, k = 0, ..., 2**b - 2. The stored range is (smallest,
    largest level). At most 4 bits: the levels spread exponentially with the width.
    """

    name: ClassVar[str] = "potq"
    widths: ClassVar[tuple[int, ...]] = tuple(NORMAL_STEP)
    storage: ClassVar[Storage] = Storage.CODEBOOK
    steps: ClassVar[Mapping[int, float]] = NORMAL_STEP

    def _parameters(self, ranges: Float, bits: int, signed: bool, narrow: bool) -> QuantParameters:  # noqa: ARG002
        top = np.maximum(np.abs(ranges).max(axis=1) if signed else ranges[:, 1], SMALLEST_SCALE).astype(np.float64)
        exponents, thresholds = _exponents(bits, signed)
        unit = (top / 2.0 ** exponents[-1])[:, None]
        magnitudes, cuts = unit * 2.0**exponents, unit * 2.0**thresholds
        zero = np.zeros((len(top), 1))
        if signed:
            edges = np.concatenate([-cuts[:, ::-1], zero, cuts], axis=1)
            return codebook(nearest_two_sided(magnitudes), bits, True, edges)
        return codebook(
            np.concatenate([zero, magnitudes], axis=1), bits, False, np.concatenate([unit / 2, cuts], axis=1)
        )

    def _fit(self, rows: Float, bits: int, signed: bool, narrow: bool) -> Float:  # noqa: ARG002
        last = 2.0 ** _exponents(bits, signed)[0][-1]
        if signed:
            high = deviation(rows).astype(np.float64) * self.steps[bits] * last
            return np.stack([-high, high], axis=1).astype(np.float32)
        high = (
            np.sqrt(2 * np.square(np.maximum(rows, 0), dtype=np.float64).mean(axis=1)) * HALF_NORMAL_STEP[bits] * last
        )
        return np.stack([np.zeros_like(high), high], axis=1).astype(np.float32)


def _exponents(bits: int, signed: bool) -> tuple[Float, Float]:
    """Return exponents of the positive levels, and of the thresholds between them."""
    values = np.arange(1 << (bits - 1) if signed else (1 << bits) - 1, dtype=np.float32)
    exponents = values - (values == 0) if signed else values
    return exponents, values[1:] - np.float32(0.5)


@dataclass(frozen=True)
class PotQPaper(PotQ):
    """PotQ with the units that the paper prints, 2 to 4 bits."""

    name: ClassVar[str] = "potq-paper"
    widths: ClassVar[tuple[int, ...]] = tuple(PAPER_STEP)
    steps: ClassVar[Mapping[int, float]] = PAPER_STEP
