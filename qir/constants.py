"""Constants as passes and backends read them: seen through the `Identity` and `Constant` nodes of exporters."""

from __future__ import annotations

import numpy as np

from qir.errors import QirError
from qir.graph import Node, Value
from qir.tensor import Array, Tensor


def is_standard(node: Node, *ops: str) -> bool:
    """Return whether the node is one of these operators of ONNX's own set."""
    return node.op in ops and node.domain in {"", "ai.onnx"}


def constant_of(value: Value | None) -> Tensor | None:
    """Return the constant that a value is, seen through `Identity` and `Constant` nodes; None when it is none.

    An input with a default value is not a constant: the caller may replace it.
    """
    while value is not None:
        if value.is_constant:
            return value.constant
        node = value.producer
        if node is None:
            return None
        if is_standard(node, "Constant"):
            found = node.attribute("value")
            return found if isinstance(found, Tensor) else None
        if not is_standard(node, "Identity"):
            return None
        value = node.input(0)
    return None


def array_of(value: Value | None) -> Array | None:
    """Return the elements of `constant_of`, read-only."""
    found = constant_of(value)
    return None if found is None else found.numpy()


def uniform_value(array: Array | None) -> float | None:
    """Return the one number that every element of the array is, or None."""
    if array is None or array.size == 0 or array.dtype.kind not in "fiub":
        return None
    first = array.reshape(-1)[0]
    return float(first) if bool(np.all(array == first)) else None


def number_of(value: Value | None) -> float | None:
    """Return the number that a constant with one element is, or None."""
    constant = constant_of(value)
    return uniform_value(constant.numpy()) if constant is not None and constant.size == 1 else None


def require_constant(value: Value) -> Tensor:
    """Return the constant that a value has to be.

    Raises:
        QirError: the value is computed, or an input.
    """
    found = constant_of(value)
    if found is None:
        raise QirError(f"value {value.name!r}: is computed, and a constant was expected: run fold-constants")
    return found


def require_array(value: Value) -> Array:
    """Return the values of a constant, read-only.

    Raises:
        QirError: the value is computed, or an input.
    """
    return require_constant(value).numpy()
