"""From nodes of the graph to the layer shapes that cost models take."""

from __future__ import annotations

from math import prod

from qir.backends.cost_models.shape import ConvShape
from qir.graph import Node, Value
from qir.ops import LayerShape, op_of
from qir.tracing import quantizer_of
from qir.types import TensorType

WEIGHT_SUFFIX = ".weight"
"""What the name of a layer's weight quantizer ends with."""


def label(node: Node) -> str:
    """A node's name, or its result's."""
    return node.name or node.result.name


def layer_name(node: Node) -> str:
    """The name of a node's weight quantizer without `.weight`, else the node's name."""
    operands = op_of(node).quantizable(node)
    quantizer = None if operands is None else quantizer_of(node.input(operands.weight))
    found = quantizer is not None and quantizer.name.endswith(WEIGHT_SUFFIX)
    return quantizer.name.removesuffix(WEIGHT_SUFFIX) if found and quantizer is not None else label(node)


def elements_of(value: Value | None, batch: int = 1) -> int | None:
    """Number of elements, an unknown first dimension taken as `batch`; None when another one is unknown."""
    if value is None or not isinstance(value.type, TensorType) or value.type.shape is None:
        return None
    shape = value.type.shape
    sizes = [dim if isinstance(dim, int) else batch if axis == 0 else None for axis, dim in enumerate(shape)]
    known = [size for size in sizes if size is not None]
    return prod(known) if len(known) == len(sizes) else None


def layer_shape(node: Node, batch: int = 1) -> tuple[ConvShape, int] | None:
    """The layer that a node computes and how many copies of it; None when it is unknown or has over two dimensions."""
    found = op_of(node).layer_shape(node, batch=batch)
    if found is None:
        return None
    if found.is_matrix_product:
        shape = ConvShape(
            found.in_channels, found.out_channels, 1, 1, batch=found.batch, groups=found.groups, fully_connected=True
        )
        return shape, found.copies
    if len(found.spatial) > 2:
        return None
    return (_transposed(found) if found.transposed else _conv(found)), found.copies


def _conv(found: LayerShape) -> ConvShape:
    """A convolution over one dimension is one over rows of height 1."""
    flat = len(found.spatial) == 1
    half = len(found.pads) // 2
    begins, ends = found.pads[:half], found.pads[half:]
    height, width = _plane(found.spatial, 1)
    return ConvShape(
        found.in_channels,
        found.out_channels,
        height,
        width,
        _plane(found.kernel, 1),
        _plane(found.stride, 1),
        (0, begins[0], 0, ends[0]) if flat else (begins[0], begins[1], ends[0], ends[1]),
        found.groups,
        found.batch,
        dilation=_plane(found.dilation, 1),
    )


def _transposed(found: LayerShape) -> ConvShape:
    """Every input pixel is multiplied by all taps: a pointwise layer with as many outputs as filters x taps."""
    height, width = _plane(found.spatial, 1)
    outputs = found.out_channels * prod(found.kernel)
    return ConvShape(found.in_channels, outputs, height, width, groups=found.groups, batch=found.batch)


def _plane(sizes: tuple[int, ...], filler: int) -> tuple[int, int]:
    return (filler, sizes[0]) if len(sizes) == 1 else (sizes[0], sizes[1])
