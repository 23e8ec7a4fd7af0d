"""From nodes of the graph to the layer shapes that cost models take."""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import prod

from qir.backends.costs.layers.shape import ConvShape
from qir.errors import TargetError
from qir.graph import Graph, Node, Value
from qir.labels import unique
from qir.module import Module
from qir.ops import LayerShape, op_of
from qir.ops.definition import sizes_of
from qir.tracing import quantizer_of

WEIGHT_SUFFIX = ".weight"
"""What the name of a layer's weight quantizer ends with."""


@dataclass(frozen=True, slots=True)
class LayerProduct:
    """A product that a layer computes: most have one, recurrent ones one with the input and one with the state.

    Attributes:
        shape: of one product.
        copies: how many follow each other: batched products, directions, time steps.
        data, weight: indices of the node's operands, None where nothing is known about them.
        share: of the layer's multiply-accumulates.
    """

    shape: ConvShape
    copies: int = 1
    data: int | None = None
    weight: int | None = None
    share: float = 1.0


def layer_name(node: Node) -> str:
    """Return the name of a node's weight quantizer without `.weight`, else the node's name."""
    operands = op_of(node).quantizable(node)
    quantizer = None if operands is None else quantizer_of(node.input(operands.weight))
    found = quantizer is not None and quantizer.name.endswith(WEIGHT_SUFFIX)
    return quantizer.name.removesuffix(WEIGHT_SUFFIX) if found and quantizer is not None else node.label


def layer_names(graph: Graph) -> dict[Node, str]:
    """Return the names that cost tables have for the nodes of a graph and its subgraphs, each a name of its own.

    Layers of multiply-accumulates are called as `layer_name` says; where they share a weight or names repeat, the later
    ones end with `.2`, `.3`, ….
    """
    nodes = sorted(graph.walk(), key=lambda node: not op_of(node).is_expensive)
    return unique((node, layer_name(node) if op_of(node).is_expensive else node.label) for node in nodes)


def elements_of(value: Value | None, batch: int | None = 1) -> int | None:
    """Return the number of elements, an unknown first dimension taken as `batch`; None when a size is unknown."""
    sizes = sizes_of(value, batch)
    return None if sizes is None else prod(sizes)


def layer_shape(node: Node, batch: int | None = 1) -> tuple[ConvShape, int] | None:
    """Return the layer that a node computes and how many copies of it; None when it is unknown.

    A convolution over three dimensions is one over two for each slice of its result, with as many more input channels
    as the kernel is deep: its products and weights are exact, its input counts once for every slice that reads it.

    Raises:
        TargetError: the kernel does not fit into the input, or is made for other channels.
    """
    found = op_of(node).layer_shape(node, batch=batch)
    if found is None:
        return None
    if found.is_matrix_product:
        shape = ConvShape(
            found.in_channels, found.out_channels, 1, 1, batch=found.batch, groups=found.groups, fully_connected=True
        )
        return shape, found.copies
    if len(found.spatial) > 3:
        return None
    data, weight = sizes_of(node.input(0), batch), sizes_of(node.input(1))
    made_for = found.in_channels if weight is None or found.transposed else weight[1] * found.groups
    if data is not None and data[1] != made_for:
        raise TargetError(
            f"layer {node.label!r}: its input has {data[1]} channels; its weights are made for {made_for}"
        )
    return (_transposed(found) if found.transposed else _conv(found)), found.copies


def layer_products(node: Node, batch: int | None = 1) -> tuple[LayerProduct, ...]:
    """Return the products that a node computes, those of its data and weight first; empty when they are unknown.

    A recurrent layer multiplies its whole input by W as a fully connected layer does, a row for each time step and
    sequence, and its state by R at every time step anew: each product waits for the one before and fetches R again.
    """
    found, operands, kernel = layer_shape(node, batch), op_of(node).quantizable(node), op_of(node).float_kernel(node)
    if found is None:
        return ()
    if kernel is not None and kernel.products:
        return _recurrent(node, *found, batch)
    data, weight = (None, None) if operands is None else (operands.data, operands.weight)
    return (LayerProduct(*found, data, weight),)


def products_of(module: Module, batch: int = 1) -> dict[str, tuple[LayerProduct, ...]]:
    """Return layers of multiply-accumulates whose shapes are known, by name."""
    names = layer_names(module.graph)
    products = {names[node]: layer_products(node, batch) for node in module.graph if op_of(node).is_expensive}
    return {name: found for name, found in products.items() if found}


def _recurrent(node: Node, both: ConvShape, directions: int, batch: int | None) -> tuple[LayerProduct, ...]:
    """Return the products with the input and with the state, of a layer whose shape holds both side by side."""
    kernel, sizes = op_of(node).float_kernel(node), sizes_of(node.input(0), batch)
    if kernel is None or sizes is None:
        return ()
    (data, weight), (state, recurrence) = kernel.products
    steps = sizes[1 if node.attribute("layout", 0) else 0]
    hidden = (elements_of(node.input(recurrence)) or 0) // (directions * both.out_channels)
    inputs = replace(both, in_channels=both.in_channels - hidden)
    states = replace(both, in_channels=hidden, batch=both.batch // steps)
    share = hidden / both.in_channels
    return (
        LayerProduct(inputs, directions, data, weight, 1 - share),
        LayerProduct(states, directions * steps, state, recurrence, share),
    )


def _conv(found: LayerShape) -> ConvShape:
    """Return a convolution as one over two dimensions: one over rows of height 1, or slice by slice."""
    half = len(found.pads) // 2
    begins, ends = _plane(found.pads[:half], 0), _plane(found.pads[half:], 0)
    height, width = _plane(found.spatial, 1)
    deep = len(found.spatial) == 3
    return ConvShape(
        found.in_channels * (found.kernel[0] if deep else 1),
        found.out_channels,
        height,
        width,
        _plane(found.kernel, 1),
        _plane(found.stride, 1),
        (*begins, *ends),
        found.groups,
        found.batch * (found.output_spatial[0] if deep else 1),
        dilation=_plane(found.dilation, 1),
    )


def _transposed(found: LayerShape) -> ConvShape:
    """Return the pointwise layer that multiplies every input pixel by all taps: filters x taps outputs."""
    height, width = _plane(found.spatial, 1)
    outputs = found.out_channels * prod(found.kernel)
    images = found.batch * prod(found.spatial[:-2])
    return ConvShape(found.in_channels, outputs, height, width, groups=found.groups, batch=images)


def _plane(sizes: tuple[int, ...], filler: int) -> tuple[int, int]:
    """Return the last two dimensions; a filler where there is one."""
    return (filler, sizes[0]) if len(sizes) == 1 else (sizes[-2], sizes[-1])
