"""What rules ask about the nodes around the one they look at."""

from __future__ import annotations

from qir.graph import Node, Value
from qir.passes.analysis.constants import array_of, constant_of, is_standard, uniform_value


def only_user(value: Value) -> Node | None:
    """The only node that uses a value, once, in the same graph; None when there is another use."""
    uses = value.uses
    if len(uses) != 1 or uses[0].node.is_return:
        return None
    producer = value.producer
    return uses[0].node if producer is None or producer.graph is uses[0].node.graph else None


def sole_producer(value: Value | None, *ops: str) -> Node | None:
    """The node of one of these operators that produces a value which nothing else uses."""
    node = None if value is None else value.producer
    if node is None or value is None or not is_standard(node, *ops):
        return None
    return node if len(value.uses) == 1 and not value.is_output else None


def scalar(value: Value | None) -> float | None:
    """The number that a constant with one element (or one repeated number of few) is, else None."""
    constant = constant_of(value)
    return uniform_value(constant.numpy()) if constant is not None and constant.size == 1 else None


def with_scalar(node: Node, *, commutes: bool) -> tuple[Value, float] | None:
    """The data operand and the number of a node that combines data with one number."""
    for index in (1, 0) if commutes else (1,):
        number, data = scalar(node.input(index)), node.input(1 - index)
        if number is not None and data is not None and array_of(data) is None:
            return data, number
    return None
