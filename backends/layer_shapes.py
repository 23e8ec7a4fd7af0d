"""From nodes of the graph to the layer shapes that cost models take."""

from __future__ import annotations

from math import prod

from qir.backends.cost_models.shape import ConvShape
from qir.graph import Node, Value
from qir.types import TensorType


def shape_of(value: Value | None, batch: int = 1) -> tuple[int, ...] | None:
    """A value's shape with an unknown first dimension taken as `batch`; None when another one is unknown."""
    if value is None or not isinstance(value.type, TensorType) or value.type.shape is None:
        return None
    sizes = []
    for axis, dim in enumerate(value.type.shape):
        if isinstance(dim, int):
            sizes.append(dim)
        elif axis == 0:
            sizes.append(batch)
        else:
            return None
    return tuple(sizes)


def layer_shape(node: Node, batch: int = 1) -> ConvShape | None:
    """The shape of a convolution or matrix product, None when it is unknown or of another kind."""
    data, weight, result = (shape_of(v, batch) for v in (node.input(0), node.input(1), node.result))
    if data is None or weight is None or result is None:
        return None
    if node.op == "Conv" and len(weight) in {3, 4}:
        return _conv(node, data, weight)
    if node.op in {"Gemm", "MatMul"} and len(weight) >= 2 and len(result) >= 1:
        inputs = data[-1] if node.op == "MatMul" or not node.attribute("transA", 0) else data[0]
        outputs = result[-1]
        return ConvShape(inputs, outputs, 1, 1, batch=max(prod(result) // outputs, 1), fully_connected=True)
    return None


def _conv(node: Node, data: tuple[int, ...], weight: tuple[int, ...]) -> ConvShape:
    flat = len(weight) == 3
    pads = node.attribute("pads", (0,) * (2 * (len(weight) - 2)))
    strides = node.attribute("strides", (1,) * (len(weight) - 2))
    dilations = node.attribute("dilations", (1,) * (len(weight) - 2))
    groups = node.attribute("group", 1)
    if flat:
        return ConvShape(
            data[1], weight[0], 1, data[2], (1, weight[2]), (1, strides[0]), (0, pads[0], 0, pads[1]), groups, data[0], False, (1, dilations[0])
        )
    return ConvShape(
        data[1], weight[0], data[2], data[3], (weight[2], weight[3]), tuple(strides), tuple(pads), groups, data[0], False, tuple(dilations)
    )
