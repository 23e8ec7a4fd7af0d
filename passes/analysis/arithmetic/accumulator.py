"""Proof that a layer's accumulator cannot overflow: interval arithmetic over the codes of weight, input and bias.

For every output channel the largest sum is Σ max(w·(low - zp), w·(high - zp)) over the channel's weights, the smallest
the same with min; the bias is added where it widens them. Since an input code can stand for zero, every part of a sum
stays inside as well, in whatever order it is added up, with the bias first or last. No input can leave these bounds.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from qir.graph import Node
from qir.ops import op_of
from qir.passes.analysis.quantized_layers import QuantizedLayer
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


@dataclass(frozen=True, eq=False)
class SumRange:
    """The smallest and largest sum of products of every output channel: int64 [channels]."""

    low: Array
    high: Array

    def bounds(self, bias: Array | None = None) -> AccumulatorBounds:
        """Return the bounds of all sums.

        Args:
            bias: integer codes added to the sums, [channels] or broadcastable to [rows, channels].
        """
        least, most = (np.zeros(1, np.int64),) * 2 if bias is None else _ends(bias)
        low, high = self.low + np.minimum(least, 0), self.high + np.maximum(most, 0)
        return AccumulatorBounds(int(low.min(initial=0)), int(high.max(initial=0)))


def weighted_sums(node: Node, centred: Array, data: QuantParameters) -> SumRange:
    """Return the range of a layer's sums.

    Args:
        node: the layer.
        centred: integers of its constant weight's shape, less their zero points.
        data: grid of integers of its input.
    """
    zero, rows = int(data.zero_point.reshape(-1)[0]), rows_by_channel(node, centred.astype(np.int64))
    first, second = rows * (data.low_code - zero), rows * (data.high_code - zero)
    return SumRange(np.minimum(first, second).sum(axis=1), np.maximum(first, second).sum(axis=1))


def product_sums(layer: QuantizedLayer, data: QuantParameters, other: QuantParameters) -> SumRange | None:
    """Return the range of a product of two activations: as many products of their extreme codes as a sum has.

    Args:
        layer: a layer whose weight operand is computed.
        data: grid of its data operand.
        other: grid of its second operand.

    Returns:
        None when codes are not integers on a uniform grid, or the length of a sum is unknown.
    """
    length, grids = _length(layer), (data, other)
    if length is None or not all(grid.has_integer_codes for grid in grids):
        return None
    ends = [np.array([g.low_code, g.high_code], np.int64)[:, None] - g.zero_point.astype(np.int64) for g in grids]
    products = (ends[0].reshape(-1)[:, None] * ends[1].reshape(-1)) * length
    return SumRange(np.minimum(products.min(), 0).reshape(1), np.maximum(products.max(), 0).reshape(1))


def _length(layer: QuantizedLayer) -> int | None:
    """Return the number of products of one sum of MatMul or Gemm."""
    shape = layer.data.source.shape
    if layer.node.op not in ("MatMul", "Gemm") or not shape:
        return None
    size = shape[0 if layer.node.attribute("transA", 0) else -1]
    return size if isinstance(size, int) else None


def _ends(bias: Array) -> tuple[Array, Array]:
    """Return the smallest and largest code of each channel's bias: int64 [channels or 1]."""
    codes = bias.astype(np.int64)
    rows = codes.reshape(-1, codes.shape[-1]) if codes.ndim else codes.reshape(1, 1)
    return rows.min(axis=0), rows.max(axis=0)


def rows_by_channel(node: Node, weight: Array) -> Array:
    """Return the integers of a weight as [output channels, products of one sum].

    ConvTranspose counts every tap of its kernel; a vector is one channel.
    """
    operands = op_of(node).quantizable(node)
    axis = None if operands is None else operands.weight_axis
    groups = node.attribute("group", 1) if node.op == "ConvTranspose" else 1
    if groups > 1:
        weight = np.concatenate(np.split(weight, groups, axis=0), axis=1)
        axis = 1
    if weight.ndim == 1:
        return weight.reshape(1, -1)
    if axis is None:
        axis = weight.ndim - 1
    return np.moveaxis(weight, axis, 0).reshape(weight.shape[axis], -1)
