"""Following a value to the quantizer whose grid it lies on."""

from __future__ import annotations

from qir.fake_quant import FakeQuant
from qir.graph import Value
from qir.ops import op_of


def grid_origin(value: Value) -> Value:
    """Return the value whose grid this one keeps: walks up through ops that keep their operand's grid."""
    while (node := value.producer) is not None and not node.is_fake_quant:
        source = op_of(node).grid_operand(node)
        operand = None if source is None else node.input(source)
        if operand is None:
            return value
        value = operand
    return value


def quantizer_of(value: Value | None) -> FakeQuant | None:
    """Return the quantizer whose grid a value lies on, or None."""
    return FakeQuant.of(None if value is None else grid_origin(value))
