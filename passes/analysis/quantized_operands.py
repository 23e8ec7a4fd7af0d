"""What of a node is put on grids: its weights, its data, and what they are called."""

from __future__ import annotations

from collections.abc import Iterator

from qir.fake_quant import FakeQuant
from qir.graph import Node, Value
from qir.ops import op_of
from qir.ops.definition import rank_of
from qir.tracing import quantizer_of


def is_layer(node: Node) -> bool:
    """Tell whether a node multiplies quantizable operands, or computes in float with weights stored as codes."""
    facts = op_of(node)
    if facts.quantizable(node) is not None:
        return True
    kernel = facts.float_kernel(node)
    return kernel is not None and any(
        (weight := node.input(index)) is not None and is_weight(weight) for index in kernel.weights
    )


def weight_operands(node: Node) -> Iterator[tuple[int, str, int | None, int | None]]:
    """Yield operand, name in the quantizer, axis of the output channels, axis that is summed over, of every weight."""
    operands, kernel = op_of(node).quantizable(node), op_of(node).float_kernel(node)
    if operands is not None:
        axis, rank = operands.weight_axis, rank_of(node.input(operands.weight))
        summed = None if axis is None or rank is None else rank - 2 if axis == rank - 1 else 1 if axis == 0 else 0
        yield operands.weight, "weight", axis, summed
    elif kernel is not None:
        for index, (suffix, axis) in kernel.weights.items():
            rank = rank_of(node.input(index))
            yield index, suffix, axis, None if rank is None else rank - 1


def operand_quantizers(node: Node) -> list[FakeQuant]:
    """Return the quantizers of a layer's data and weights, those that are there."""
    operands, kernel = op_of(node).quantizable(node), op_of(node).float_kernel(node)
    indices = [] if operands is None else [operands.data, operands.weight]
    indices += [] if kernel is None else [*kernel.data, *kernel.weights]
    return [found for index in indices if (found := quantizer_of(node.input(index))) is not None]


def quantizer_stem(node: Node) -> str:
    """Return what a layer is called in names of quantizers.

    Its weight's name without `.weight`, else the node's name.
    """
    index = next((index for index, *_ in weight_operands(node)), None)
    weight = None if index is None else node.input(index)
    if weight is not None:
        while (quantizer := FakeQuant.of(weight)) is not None:
            weight = quantizer.source
        if weight.is_constant and weight.name.endswith(".weight"):
            return weight.name.removesuffix(".weight")
    return node.label


def is_float(value: Value) -> bool:
    """Return whether a value is float, as far as its type says."""
    return value.dtype is None or value.dtype.is_float


def is_weight(value: Value) -> bool:
    """Return whether a value is a constant, seen through fake-quant nodes."""
    quantizer = FakeQuant.of(value)
    return value.is_constant or (quantizer is not None and is_weight(quantizer.source))
