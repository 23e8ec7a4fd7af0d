"""Integers that are known although they are computed: what a chain from Constant, or from Shape, yields."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from qir.graph import Node, Value
from qir.ops.definition import sizes_of, tensor_of
from qir.tensor import Array, Tensor
from qir.types import DType

DEPTH = 16
LARGEST = 64
_RANGES = {DType.INT32: 2**31, DType.INT64: 2**62}


def known_integers(value: Value, depth: int = DEPTH) -> Tensor | None:
    """Return the value of an integer result that follows from known dimensions and constants, or None."""
    node, type_ = value.producer, tensor_of(value)
    if node is None or depth == 0 or node.domain not in {"", "ai.onnx"} or node.op not in _RULES:
        return None
    if type_ is not None and type_.dtype not in _RANGES:
        return None
    if value is not node.result or any(a.reference for a in node.attributes.values()):
        return None
    if node.op in _SOURCES:
        return _SOURCES[node.op](node)
    operands = [None if operand is None else _array(operand, depth - 1) for operand in node.inputs]
    if any(found is None for found, operand in zip(operands, node.inputs, strict=True) if operand is not None):
        return None
    try:
        made = _RULES[node.op](node, operands)
    except (IndexError, ValueError, TypeError, ZeroDivisionError):
        return None
    if made is None or made.size > LARGEST or (type_ is not None and not _fits(made, type_.dtype)):
        return None
    return Tensor.of(made.astype(np.int64))


def _fits(array: Array, dtype: DType) -> bool:
    """Return whether an executor that computes in this element type finds the same numbers."""
    return bool(np.abs(array).max(initial=0) < _RANGES[dtype])


def _array(value: Value, depth: int) -> Array | None:
    tensor = value.constant if value.is_constant else known_integers(value, depth)
    if tensor is None or tensor.size > LARGEST or tensor.dtype not in _RANGES:
        return None
    return tensor.numpy()


def _shape(node: Node) -> Tensor | None:
    operand = tensor_of(node.input(0))
    if operand is None or operand.shape is None:
        return None
    part = operand.shape[slice(node.attribute("start", 0), node.attribute("end"))]
    known = [size for size in part if isinstance(size, int)]
    return Tensor.of(np.asarray(known, np.int64)) if len(known) == len(part) else None


def _size(node: Node) -> Tensor | None:
    sizes = sizes_of(node.input(0))
    return None if sizes is None else Tensor.of(np.asarray(np.prod(sizes, dtype=np.int64)))


def _constant(node: Node) -> Tensor | None:
    held = next(
        (node.attribute(name) for name in ("value", "value_int", "value_ints") if name in node.attributes), None
    )
    tensor = held if held is None or isinstance(held, Tensor) else Tensor.of(np.asarray(held, np.int64))
    return tensor if tensor is not None and tensor.dtype in _RANGES and tensor.size <= LARGEST else None


Operands = list[Array | None]


def _axes(node: Node, operands: Operands) -> tuple[int, ...] | None:
    given = operands[1] if len(operands) > 1 else None
    return tuple(given.reshape(-1).tolist()) if given is not None else node.attribute("axes")


def _gather(node: Node, operands: Operands) -> Array:
    return np.take(np.asarray(operands[0]), np.asarray(operands[1]), axis=node.attribute("axis", 0))


def _slice(node: Node, operands: Operands) -> Array | None:
    data = np.asarray(operands[0])
    if len(operands) == 1:
        starts, ends, steps = node.attribute("starts"), node.attribute("ends"), (1,)
    else:
        starts, ends = (np.asarray(o).reshape(-1).tolist() for o in operands[1:3])
        given = operands[4] if len(operands) > 4 else None
        steps = (1,) if given is None else tuple(given.reshape(-1).tolist())
    if data.ndim != 1 or len(starts) != 1:
        return None
    return data[slice(starts[0], ends[0], steps[0])] if steps[0] > 0 else None


def _squeeze(node: Node, operands: Operands) -> Array:
    return np.squeeze(np.asarray(operands[0]), _axes(node, operands))


def _unsqueeze(node: Node, operands: Operands) -> Array:
    return np.expand_dims(np.asarray(operands[0]), _axes(node, operands) or ())


def _divide(_: Node, operands: Operands) -> Array:
    dividend, divisor = np.asarray(operands[0]), np.asarray(operands[1])
    return np.asarray(np.trunc(dividend / divisor))


def _binary(function: Callable[[Array, Array], Array]) -> Callable[[Node, Operands], Array]:
    return lambda _, operands: function(np.asarray(operands[0]), np.asarray(operands[1]))


_SOURCES: dict[str, Callable[[Node], Tensor | None]] = {"Constant": _constant, "Shape": _shape, "Size": _size}
_RULES: dict[str, Callable[[Node, Operands], Array | None]] = {
    **dict.fromkeys(_SOURCES, lambda _, __: None),
    "Gather": _gather,
    "Slice": _slice,
    "Squeeze": _squeeze,
    "Unsqueeze": _unsqueeze,
    "Concat": lambda node, operands: np.concatenate([o for o in operands if o is not None], node.attribute("axis")),
    "Identity": lambda _, operands: operands[0],
    "Cast": lambda _, operands: operands[0],
    "Reshape": lambda _, operands: np.asarray(operands[0]).reshape(np.asarray(operands[1])),
    "Add": _binary(np.add),
    "Sub": _binary(np.subtract),
    "Mul": _binary(np.multiply),
    "Div": _divide,
}
