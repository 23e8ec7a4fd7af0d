"""Clip quantization with offline step sizes (AutoQNN section 3.1.1, ClipQ)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import ClassVar

import numpy as np

from qir.quantizers.affine.mid_rise import deviation, mid_rise_parameters, step_ranges
from qir.quantizers.parameters import Float, QuantParameters, Storage
from qir.quantizers.scales import integer_scale, zeros
from qir.quantizers.scheme import Scheme

NORMAL_STEP: Mapping[int, float] = MappingProxyType(
    {1: 1.5957691, 2: 0.9956867, 3: 0.5860194, 4: 0.3352006, 5: 0.1881388, 6: 0.1040630, 7: 0.0568677, 8: 0.0307624}
)
"""Step of least squared error of the mid-rise grid on a standard normal, per width (found by minimization; tested)."""

HALF_NORMAL_STEP: Mapping[int, float] = MappingProxyType(
    {1: 1.2240063, 2: 0.6507697, 3: 0.3534113, 4: 0.1932485, 5: 0.1054876, 6: 0.0572613, 7: 0.0308701, 8: 0.0165282}
)
"""The same for the grid `a * {0, 1, ..., 2**b - 1}` on the positive half of a standard normal."""

PAPER_STEP: Mapping[int, float] = MappingProxyType(
    {2: 1.2832, 3: 0.6694, 4: 0.3570, 5: 0.1939, 6: 0.1056, 7: 0.0573, 8: 0.0308}
)
"""The steps printed in AutoQNN; they are not the optimum of the printed grid (see `benchmarks/training/schemes.py`)."""


@dataclass(frozen=True)
class ClipQ(Scheme):
    """Mid-rise grid clipped at a multiple of the standard deviation: `a = std(x) * step[b]`.

    Signed: `a * (clip(floor(x / a), -2**(b-1), 2**(b-1) - 1) + 1/2)`. Unsigned (an addition of this project, for
    activations after ReLU, of which many are exactly zero): the integer grid `a * {0, ..., 2**b - 1}` with
    `a = sqrt(2 mean(x**2)) * half_step[b]`, where the root is the deviation of the normal whose positive half x is.
    """

    name: ClassVar[str] = "clipq"
    widths: ClassVar[tuple[int, ...]] = tuple(NORMAL_STEP)
    storage: ClassVar[Storage] = Storage.INTEGER
    steps: ClassVar[Mapping[int, float]] = NORMAL_STEP

    def _parameters(self, ranges: Float, bits: int, signed: bool, narrow: bool) -> QuantParameters:  # noqa: ARG002
        if signed:
            return mid_rise_parameters(ranges, bits)
        top = (1 << bits) - 1
        return QuantParameters(bits, False, integer_scale(np.maximum(ranges[:, 1], 0), top), zeros(len(ranges)), 0, top)

    def _fit(self, rows: Float, bits: int, signed: bool, narrow: bool) -> Float:  # noqa: ARG002
        if signed:
            return step_ranges(deviation(rows) * np.float32(self.steps[bits]), bits)
        spread = np.sqrt(2 * np.square(np.maximum(rows, 0), dtype=np.float64).mean(axis=1))
        high = spread * HALF_NORMAL_STEP[bits] * ((1 << bits) - 1)
        return np.stack([np.zeros_like(high), high], axis=1).astype(np.float32)


@dataclass(frozen=True)
class ClipQPaper(ClipQ):
    """ClipQ with the steps that the paper prints, 2 to 8 bits."""

    name: ClassVar[str] = "clipq-paper"
    widths: ClassVar[tuple[int, ...]] = tuple(PAPER_STEP)
    steps: ClassVar[Mapping[int, float]] = PAPER_STEP
