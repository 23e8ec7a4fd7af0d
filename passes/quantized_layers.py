"""The quantized layers of a network: an expensive node with the quantizers of its operands and of its result."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from qir.graph import Graph, Node, Value
from qir.ops import op_of
from qir.tensor import Tensor
from qir.tracing import quantizer_of


@dataclass(frozen=True, slots=True)
class QuantizedLayer:
    """An expensive node and what quantizes it.

    Attributes:
        node: Conv, Gemm, MatMul, ….
        data: quantizer of the data operand.
        weight: quantizer of the weight operand.
        output: quantizer of the result, seen through the activation that fuses, or None.
        bias: the bias value, or None.
        bias_index: index of the bias operand, None when the op has none.
    """

    node: Node
    data: Node
    weight: Node
    output: Node | None
    bias: Value | None
    bias_index: int | None

    @property
    def name(self) -> str:
        """The layer's name: its weight quantizer's name without `.weight`."""
        return self.weight.name.removesuffix(".weight")

    @property
    def weight_tensor(self) -> Tensor | None:
        """The float weight, or None when the second operand is computed."""
        value = self.weight.operands[0]
        return value.constant if value.is_constant else None


def quantized_layers(graph: Graph) -> Iterator[QuantizedLayer]:
    """Every expensive node whose data and weight operand lie on grids, in order."""
    for node in graph:
        operands = op_of(node).quantizable(node)
        if operands is None:
            continue
        data, weight = quantizer_of(node.input(operands.data)), quantizer_of(node.input(operands.weight))
        if data is None or weight is None:
            continue
        bias = None if operands.bias is None else node.input(operands.bias)
        yield QuantizedLayer(node, data, weight, output_quantizer(node), bias, operands.bias)


def output_quantizer(node: Node) -> Node | None:
    """The quantizer on a node's result, seen through activations that fuse into it."""
    value = node.result
    while len(value.users) == 1:
        user = value.users[0]
        if user.is_fake_quant:
            return user
        if user.is_return or not op_of(user).fuses_into_producer(user):
            return None
        value = user.result
    return None
