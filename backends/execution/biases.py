"""Biases as the exported network holds them: int32 at scale s_x·s_w."""

from __future__ import annotations

import numpy as np

from qir.fake_quant import FakeQuant
from qir.granularity import PerBlock
from qir.graph import Graph, Node
from qir.ops import op_of
from qir.quantizers.multiples import integer_step
from qir.quantizers.parameters import QuantParameters
from qir.tensor import Array
from qir.tracing import quantizer_of


def find_biases(graph: Graph) -> dict[Node, tuple[int, FakeQuant, FakeQuant]]:
    """Return layers with a constant bias whose data and weight are quantized → bias operand, data and weight quantizer.

    Layers whose weight has blocks of scales are left out: their sums have no one scale.
    """
    found = {}
    for node in graph.walk():
        operands = op_of(node).quantizable(node)
        bias = None if operands is None or operands.bias is None else node.input(operands.bias)
        if operands is None or operands.bias is None or bias is None or bias.constant is None:
            continue
        data, weight = quantizer_of(node.input(operands.data)), quantizer_of(node.input(operands.weight))
        if data is not None and weight is not None and not isinstance(weight.granularity, PerBlock):
            found[node] = (operands.bias, data, weight)
    return found


def rounded_bias(bias: Array, data: QuantParameters, weight: QuantParameters) -> Array:
    """Return a bias on the grid of its layer's accumulators, s_x·s_w: divided in float64, as it is exported.

    Args:
        bias: float32 [channels].
        data: grid of the layer's data.
        weight: grid of its weight.

    Returns:
        Float32 [channels]; the bias itself where the levels of a grid have no common step.
    """
    first, second = _step(data), _step(weight)
    if first is None or second is None or first.size != 1:
        return bias
    scale = first[0] * second
    counts = np.rint(bias.astype(np.float64) / scale.astype(np.float64))
    rounded: Array = (counts.astype(scale.dtype) * scale).astype(bias.dtype)
    return rounded


def _step(grid: QuantParameters) -> Array | None:
    """Return the scale whose integer multiples all values on a grid are; None where its levels have none."""
    return grid.scale if grid.levels is None else integer_step(grid)
