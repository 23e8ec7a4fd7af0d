"""Requantization as thresholds: a code is the number of thresholds that a sum has reached.

For a layer whose integer sum `a` becomes the code `f(a)` with a monotone `f`, threshold k is the smallest integer with
`f(a) >= low + k` (FINN's MultiThreshold; Umuroglu and Jahre, Streamlined Deployment for Quantized Neural Networks,
2017, section 3). The search evaluates `f` itself in the arithmetic of the runtime, float32 or integers, so that no
threshold is off by a rounding error.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from qir.backends.integer.ratios import Ratio, dyadic, rounded_quotient
from qir.errors import ExportError
from qir.passes.analysis.arithmetic.layer import LayerArithmetic
from qir.quantizers import QuantParameters
from qir.quantizers.kernels import quantize
from qir.tensor import Array

Integers = npt.NDArray[np.int64]
Requantize = Callable[[Integers], Integers]
"""Integer sums [channels, any number] to codes of the same shape; monotone along every row."""

Arithmetic = Literal["float32", "plain", "dyadic"]
"""`float32`: one float32 multiplier, as fused kernels; `plain`: DequantizeLinear, then QuantizeLinear; `dyadic`: 31-bit
mantissa and shift."""

INT32 = (-(2**31), 2**31 - 1)
_LARGEST_FLOAT = 0x7F7FFFFF


@dataclass(frozen=True, eq=False)
class Thresholds:
    """The thresholds of a layer.

    Attributes:
        values: int64 [channels, codes - 1], ascending; code = low_code + number of thresholds not above
            `signs · sum`. The smallest possible sum stands for "always", one more than the largest for "never".
        signs: int64 [channels], -1 where a larger sum means a smaller code.
        low_code: smallest code.
        bias: int64 [channels or 1], the part of the sum that no product gives; `values` are those of the whole sum.
    """

    values: Integers
    signs: Integers
    low_code: int
    bias: Integers

    def codes(self, sums: Array) -> Integers:
        """Return the codes of sums [channels, any number], bias included: int64."""
        signed = np.asarray(sums, np.int64) * self.signs[:, None]
        counts = [np.searchsorted(row, line, side="right") for row, line in zip(self.values, signed, strict=True)]
        return np.asarray(counts, np.int64) + self.low_code


def layer_thresholds(layer: LayerArithmetic, arithmetic: Arithmetic = "float32") -> Thresholds:
    """Return the thresholds of a layer with its activation (Relu, Clip) and output quantizer.

    Args:
        layer: arithmetic of a layer whose result is quantized.
        arithmetic: how the runtime requantizes.

    Raises:
        ExportError: the layer has no output quantizer, or a grid is not a uniform one.
    """
    weight = None if layer.layer.weight_tensor is None else layer.weight.scale
    if layer.output is None or weight is None:
        raise ExportError(f"layer {layer.name!r}: thresholds need a constant weight and an output quantizer")
    data, output, product = layer.data.grid, layer.output.grid, layer.product
    plain = data.is_affine and output.is_affine and data.channels == output.channels == 1
    if product is None or not plain:
        raise ExportError(f"layer {layer.name!r}: thresholds need uniform activations with one scale")
    bias = np.zeros(1, np.int64) if layer.bias is None else layer.bias.values.astype(np.int64).reshape(-1)
    low, high = layer.clamp
    if arithmetic == "dyadic":
        requantize = dyadic_requantize(data.scale[0], weight, output.scale[0], int(output.zero_point[0]))
    elif arithmetic == "plain":
        requantize = plain_requantize(product, output.scale[0], int(output.zero_point[0]))
    else:
        requantize = float32_requantize((product / output.scale[0]).astype(np.float32), int(output.zero_point[0]))
    channels = max(product.size, bias.size)
    sums = INT32 if layer.bounds is None else (layer.bounds.low, layer.bounds.high)
    values, signs = integer_thresholds(
        lambda a: np.clip(requantize(a), low, high), channels, (output.low_code, output.high_code), sums
    )
    return Thresholds(values, signs, output.low_code, bias)


def float32_requantize(multiplier: Array, zero_point: int) -> Requantize:
    """rint(float32(sum) · multiplier) + zero point, as ONNX Runtime's fused kernels and the integer reference.

    Args:
        multiplier: float32 [channels or 1], of any sign.
        zero_point: of the output grid.
    """
    factor = np.asarray(multiplier, np.float32).reshape(-1, 1)

    def requantize(sums: Integers) -> Integers:
        return _whole(np.rint(sums.astype(np.float32) * factor)) + zero_point

    return requantize


def plain_requantize(scale: Array, output_scale: np.float32, zero_point: int) -> Requantize:
    """rint(float32(sum) · scale / output scale) + zero point: DequantizeLinear followed by QuantizeLinear.

    Args:
        scale: float32 [channels or 1], the scale of the sums.
        output_scale: float32 scale of the output grid.
        zero_point: of the output grid.
    """
    factor = np.asarray(scale, np.float32).reshape(-1, 1)

    def requantize(sums: Integers) -> Integers:
        values = (sums.astype(np.float32) * factor).astype(np.float32)
        return _whole(np.rint(values / np.float32(output_scale))) + zero_point

    return requantize


def dyadic_requantize(data: np.float32, weight: Array, output: np.float32, zero_point: int) -> Requantize:
    """round(sum · mantissa / 2^shift) + zero point, half to even, on integers alone.

    Args:
        data: float32 scale of the input.
        weight: float32 [channels or 1], scales of the weight.
        output: float32 scale of the output grid.
        zero_point: of the output grid.
    """
    (mantissa,), shift = dyadic(Ratio.of((data, np.atleast_1d(weight)), output))
    up = np.asarray(2 ** np.maximum(-shift, 0).astype(object), object).reshape(-1, 1)
    down = np.asarray(2 ** np.maximum(shift, 0).astype(object), object).reshape(-1, 1)

    def requantize(sums: Integers) -> Integers:
        exact = sums.astype(object) * mantissa.astype(object).reshape(-1, 1) * up
        return np.asarray(np.clip(rounded_quotient(exact, down), -(2**40), 2**40), np.int64) + zero_point

    return requantize


def integer_thresholds(
    requantize: Requantize, channels: int, codes: tuple[int, int], sums: tuple[int, int] = INT32
) -> tuple[Integers, Integers]:
    """Return the thresholds of a monotone function of integers, found by bisection.

    Args:
        requantize: from sums to codes.
        channels: number of rows.
        codes: smallest and largest code; `requantize` may leave them.
        sums: smallest and largest sum.

    Returns:
        int64 [channels, codes - 1] and signs int64 [channels], see `Thresholds`.
    """
    ends = requantize(np.broadcast_to(np.asarray(sums, np.int64), (channels, 2)))
    signs = np.where(ends[:, :1] > ends[:, 1:], -1, 1)
    first, last = np.where(signs > 0, sums[0], -sums[1]), np.where(signs > 0, sums[1], -sums[0])
    targets = np.arange(codes[0] + 1, codes[1] + 1, dtype=np.int64)
    under = np.broadcast_to(first - 1, (channels, targets.size)).copy()
    over = np.broadcast_to(last + 1, (channels, targets.size)).copy()
    while (open_ := over - under > 1).any():
        middle = np.clip((under + over) // 2, first, last)
        reached = requantize(signs * middle) >= targets
        over = np.where(open_ & reached, middle, over)
        under = np.where(open_ & ~reached, middle, under)
    return over, signs.reshape(-1)


def value_thresholds(grid: QuantParameters) -> npt.NDArray[np.float32]:
    """Return thresholds of a quantizer on real values: float32 [channels or 1, codes - 1].

    Threshold k is the smallest float32 that the grid maps to its code k or above, +inf where none is.
    """

    def place(ordered: Integers) -> Integers:
        found = quantize(_float_at(ordered), grid, 0).astype(np.int64)
        return (found - grid.low_code) // grid.code_step

    values, _ = integer_thresholds(place, grid.channels, (0, grid.codes - 1), (-_LARGEST_FLOAT, _LARGEST_FLOAT))
    return np.where(values > _LARGEST_FLOAT, np.float32(np.inf), _float_at(np.minimum(values, _LARGEST_FLOAT)))


def _float_at(ordered: Integers) -> npt.NDArray[np.float32]:
    """Return the finite float32 at a place in their order; 0 stands at 0."""
    size = np.ascontiguousarray(np.abs(ordered).astype(np.uint32)).view(np.float32)
    return np.where(ordered < 0, -size, size).astype(np.float32)


def _whole(values: Array) -> Integers:
    """Return rounded float32 values as integers, saturated far outside of every grid."""
    return np.clip(values, -(2.0**40), 2.0**40).astype(np.int64)
