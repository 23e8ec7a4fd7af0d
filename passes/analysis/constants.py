"""Constants as passes replace them, next to how they are read."""

from __future__ import annotations

import numpy as np

from qir.constants import array_of, constant_of, is_standard, number_of, uniform_value
from qir.graph import Graph, Node, Value
from qir.tensor import Array, Tensor
from qir.types import UnknownType

__all__ = [
    "array_of",
    "constant_of",
    "erase",
    "frozen",
    "is_standard",
    "number_of",
    "replace",
    "set_constant",
    "uniform_value",
]


def frozen(array: Array) -> Tensor:
    """Return a tensor that takes the array over without copying it.

    Arithmetic on arrays of rank 0 gives numpy scalars.
    """
    array = np.asarray(array)
    array.flags.writeable = False
    return Tensor.of(array)


def set_constant(node: Node, index: int, array: Array, name: str) -> Value:
    """Make operand `index` a constant with these elements.

    A constant that only this operand uses is replaced and keeps its name; one that others use too stays as it is, and
    the node gets a new one called `name`.

    Args:
        node: node inside a graph.
        index: operand; operands up to it that are not there yet are left out.
        array: the elements, taken over without copying.
        name: what a new constant is called, made unique.
    """
    tensor = frozen(array)
    value = node.input(index)
    if value is not None and value.is_constant and len(value.uses) == 1:
        if value.constant is not None:
            value.constant.release()
        value.constant = tensor
        value.type = tensor.type
        return value
    made = node.scope.add_constant(name, tensor)
    missing = index + 1 - len(node.inputs)
    if missing > 0:
        node.set_inputs((*node.inputs, *[None] * missing))
    node.set_input(index, made)
    if value is not None:
        remove_unused(value)
    return made


def remove_unused(value: Value) -> None:
    """Remove a value that nothing uses, with the constants and forwarding nodes that only it needed."""
    if value.uses:
        return
    if value.is_constant and isinstance(value.owner, Graph):
        value.owner.remove_constant(value)
        return
    node = value.producer
    if node is not None and node.graph is not None and is_standard(node, "Constant", "Identity"):
        erase(node)


def erase(node: Node) -> None:
    """Erase a node whose results are unused, what its subgraphs capture, and the constants that only it used."""
    operands = dict.fromkeys(node.operands)
    for graph in node.subgraphs():
        for inner in (*graph.walk(), graph.return_node):
            operands.update(dict.fromkeys(inner.operands))
            inner.set_inputs(())
    node.scope.erase(node)
    for operand in operands:
        remove_unused(operand)


def replace(node: Node, value: Value) -> None:
    """Make the users of a node's first result use `value`, which inherits a known type, and erase the node."""
    if isinstance(value.type, UnknownType):
        value.type = node.result.type
    node.result.replace_all_uses_with(value)
    erase(node)
