"""What a network holds in memory: its constants, and its activations with the steps between which they live."""

from __future__ import annotations

from collections.abc import Mapping
from math import prod

from qir.backends.costs.building.widths import FLOAT_BITS, Quantizers, is_held
from qir.backends.costs.layers.layer_shapes import elements_of
from qir.backends.costs.tables.rows import HeldTensor, HeldWeight
from qir.fake_quant import FakeQuant
from qir.granularity import PerBlock, granularity_of
from qir.graph import Graph, Node, Value
from qir.ops import op_of
from qir.quantizers.blocks import blocks_shape
from qir.types import DType

_INTEGERS = {DType.INT64, DType.INT32, DType.BOOL}


def held_tensors(
    written: Mapping[Value, int], last_use: Mapping[Value, int], quantizers: Quantizers
) -> tuple[tuple[HeldTensor, ...], dict[str, str | None]]:
    """Return activations and when they live; those of unknown size by name, with their quantizers.

    Args:
        written: the step that writes each value.
        last_use: the last step that reads it.
        quantizers: whose width a value has.
    """
    found, unsized = [], {}
    for value, first in written.items():
        elements, quantizer = elements_of(value, None), quantizers.of_result(value)
        if elements is None:
            unsized[value.name] = quantizer
        else:
            found.append(HeldTensor(elements, quantizer, FLOAT_BITS, first, last_use.get(value, first)))
    return tuple(found), unsized


def held_weights(graph: Graph, quantizers: Quantizers) -> tuple[HeldWeight, ...]:
    """Return constants of the graph that are real numbers; integers are shapes and indices."""
    found = []
    held = (node.result for node in graph if node.results and is_held(node.result))
    for value in (*graph.constants, *held):
        elements = elements_of(value)
        if elements is None or is_integer(value) or not value.users:
            continue
        user = value.users[0]
        quantizer = user.name if user.is_fake_quant else quantizers.stand_ins.get(value)
        scales = 0 if quantizer is None else _scales(user, value)
        found.append(HeldWeight(elements, quantizer, scales))
    return tuple(found)


def _weight_axis(node: Node, value: Value) -> int | None:
    """Return the axis of a constant's output channels, as the layer that it belongs to has them."""
    operands, kernel = op_of(node).quantizable(node), op_of(node).float_kernel(node)
    if operands is not None:
        return operands.weight_axis
    axes = {} if kernel is None else {node.input(index): axis for index, (_, axis) in kernel.weights.items()}
    return axes.get(value)


def _scales(user: Node, value: Value) -> int:
    """Scales of a weight: one a block or channel along the quantizer's axis (the layer's, where there is none yet)."""
    known = FakeQuant(user).granularity if user.is_fake_quant else granularity_of(_weight_axis(user, value))
    shape = value.shape
    if shape is None or known.axis is None:
        return 1
    sizes = tuple(size for size in shape if isinstance(size, int))
    if isinstance(known, PerBlock) and len(sizes) == len(shape):
        return prod(blocks_shape(sizes, known.axis, known.size))
    size = shape[known.axis]
    return size if isinstance(size, int) else 1


def is_integer(value: Value) -> bool:
    """Tell whether a value holds indices, sizes or truth values."""
    return value.dtype in _INTEGERS
