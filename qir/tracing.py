"""Following a value to the quantizer whose grid it lies on."""

from __future__ import annotations

from qir.graph import Node, Value
from qir.ops import op_of


def grid_origin(value: Value) -> Value:
    """The value whose grid this one keeps: walks up through ops that keep their operand's grid."""
    while (node := value.producer) is not None and not node.is_fake_quant:
        source = op_of(node).grid_operand(node)
        operand = None if source is None else node.input(source)
        if operand is None:
            return value
        value = operand
    return value


def quantizer_of(value: Value | None) -> Node | None:
    """The fake-quant node whose grid a value lies on, or None."""
    if value is None:
        return None
    node = grid_origin(value).producer
    return node if node is not None and node.is_fake_quant else None
