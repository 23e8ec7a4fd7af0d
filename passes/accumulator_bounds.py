"""Proof that a layer's accumulator cannot overflow: interval arithmetic over the codes of weight, input and bias.

For every output channel the largest sum is Σ max(w·(low - zp), w·(high - zp)) + bias over the channel's weights, the
smallest the same with min. No input can leave these bounds, whatever the data.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from qir.fake_quant import parameters_of
from qir.ops import op_of
from qir.passes.quantized_layers import QuantizedLayer
from qir.quantizers import QuantParameters
from qir.tensor import Array


@dataclass(frozen=True)
class AccumulatorBounds:
    """The smallest and largest sum that any input can produce, both included."""

    low: int
    high: int

    @property
    def bits(self) -> int:
        """Width of the smallest two's complement integer that holds every sum."""
        return max(self.high, -self.low - 1, 0).bit_length() + 1


def accumulator_bounds(layer: QuantizedLayer, weight: Array, bias: Array | None) -> AccumulatorBounds | None:
    """The proven bounds of a layer's accumulator, the bias included.

    Args:
        layer: a quantized layer with a constant weight.
        weight: integer codes of the weight.
        bias: int32 codes of the bias [channels], or None.

    Returns:
        None when the codes of the input or weight are no integers on a uniform grid.
    """
    data, grid = parameters_of(layer.data), parameters_of(layer.weight)
    if not data.has_integer_codes or not grid.has_integer_codes:
        return None
    rows = _by_channel(layer, weight.astype(np.int64), grid)
    zero = int(data.zero_point.reshape(-1)[0])
    first, second = rows * (data.low_code - zero), rows * (data.high_code - zero)
    offset = np.zeros(1, np.int64) if bias is None else bias.astype(np.int64).reshape(-1)
    high = np.maximum(first, second).sum(axis=1) + offset
    low = np.minimum(first, second).sum(axis=1) + offset
    return AccumulatorBounds(int(low.min(initial=0)), int(high.max(initial=0)))


def _by_channel(layer: QuantizedLayer, weight: Array, grid: QuantParameters) -> Array:
    """Centred codes [output channels, products of one sum]; ConvTranspose counts every tap of its kernel."""
    zero = grid.zero_point.astype(np.int64).reshape(-1)
    operands = op_of(layer.node).quantizable(layer.node)
    axis = None if operands is None else operands.weight_axis
    groups = layer.node.attribute("group", 1) if layer.node.op == "ConvTranspose" else 1
    if groups > 1:
        weight = np.concatenate(np.split(weight, groups, axis=0), axis=1)
        axis = 1
    if axis is None:
        axis = weight.ndim - 1
    rows = np.moveaxis(weight, axis, 0).reshape(weight.shape[axis], -1)
    return rows - (zero[:, None] if zero.size == len(rows) else zero[0])
