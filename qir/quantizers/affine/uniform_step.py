"""Uniform quantization whose range is told as zero point and step, for grids that come from elsewhere."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from qir.quantizers.affine.uniform import Uniform, signed_codes
from qir.quantizers.parameters import SMALLEST_SCALE, Float, QuantParameters, Storage
from qir.quantizers.scheme import Scheme


@dataclass(frozen=True)
class UniformStep(Scheme):
    """The grids of ONNX QuantizeLinear with any float32 scale.

    The pair (low, high) of a range is (lowest code - zero point, scale), the lowest level in steps and the step. So
    the grid of an already quantized network is kept exactly; not every float32 scale is a range divided by its steps.
    """

    name: ClassVar[str] = "uniform-step"
    widths: ClassVar[tuple[int, ...]] = tuple(range(2, 17))
    storage: ClassVar[Storage] = Storage.INTEGER

    def _parameters(self, ranges: Float, bits: int, signed: bool, narrow: bool) -> QuantParameters:
        low, high = signed_codes(bits, narrow) if signed else (0, (1 << bits) - 1)
        zero_point = np.clip(low - np.rint(ranges[:, 0]), low, high).astype(np.int32)
        return QuantParameters(bits, signed, np.maximum(ranges[:, 1], SMALLEST_SCALE), zero_point, low, high)

    def _fit(self, rows: Float, bits: int, signed: bool, narrow: bool) -> Float:
        fitted = Uniform().fit_parameters(rows, bits, signed, narrow, axis=0)
        return np.stack([(fitted.low_code - fitted.zero_point).astype(np.float32), fitted.scale], axis=1)
