"""Reshape to a shape that is computed from the data's own shape."""

from __future__ import annotations

import numpy as np

from qir.graph import Node, Value
from qir.passes.analysis.constants import array_of, frozen, is_standard, remove_unused, uniform_value
from qir.rewriting.engine import Match, Plan, Reject, Rule, any_value, op
from qir.types import Dim, TensorType

Dims = list[Dim]


def constant_shape(match: Match) -> Reject | Plan:
    """Reshape(x, [dimension 0 of x, -1]) with a computed dimension: Reshape(x, constant [0, -1]).

    A computed dimension becomes 0 where it is the dimension of the data at the same place, or -1 when it is the only
    one left over.
    """
    node, data, target = match.root, match["x"], match["shape"]
    if array_of(target) is not None or node.attribute("allowzero", 0):
        return Reject("its shape is constant, or a zero in it is a dimension")
    wanted, shape = computed_dims(target), _shape(data)
    if wanted is None:
        return Reject(f"its shape {target.name!r} is not computed from dimensions")
    found: list[int] = []
    for index, dim in enumerate(wanted):
        if isinstance(dim, int):
            found.append(dim)
        elif dim is not None and shape is not None and index < len(shape) and shape[index] == dim:
            found.append(0)
        else:
            found.append(-1)
    if found.count(-1) > 1:
        return Reject("more than one dimension of its shape is unknown")

    def write() -> None:
        made = node.scope.add_constant(f"{node.result.name}.shape", frozen(np.array(found, np.int64)))
        node.set_input(1, made)
        remove_unused(target)

    return lambda rewriter: rewriter.modify(node, write)


def computed_dims(value: Value | None, depth: int = 12) -> Dims | None:
    """Return the elements of an integer vector or scalar that is computed from shapes.

    Numbers, symbols, None for unknown.
    """
    array = array_of(value)
    if array is not None:
        return [int(number) for number in array.reshape(-1)] if array.dtype.kind in "iu" and array.ndim < 2 else None
    node = None if value is None else value.producer
    if node is None or depth == 0:
        return None
    if is_standard(node, "Shape"):
        shape = _shape(node.input(0))
        return None if shape is None else list(shape[node.attribute("start", 0) : node.attribute("end", len(shape))])
    if is_standard(node, "Concat"):
        parts = [computed_dims(operand, depth - 1) for operand in node.operands]
        return None if any(part is None for part in parts) else [dim for part in parts for dim in part or ()]
    source = computed_dims(node.input(0), depth - 1)
    if source is None:
        return None
    if is_standard(node, "Unsqueeze", "Squeeze", "Identity", "Cast"):
        return source
    return _picked(node, source)


def _picked(node: Node, source: Dims) -> Dims | None:
    if is_standard(node, "Gather"):
        indices = array_of(node.input(1))
        if indices is None or indices.ndim > 1 or not all(-len(source) <= i < len(source) for i in indices.reshape(-1)):
            return None
        return [source[int(i)] for i in indices.reshape(-1)]
    if is_standard(node, "Slice"):
        starts, ends, steps = (array_of(node.input(index)) for index in (1, 2, 4))
        if starts is None or ends is None or (node.input(4) is not None and uniform_value(steps) != 1):
            return None
        return source[int(starts[0]) : int(ends[0])]
    return None


def _shape(value: Value | None) -> tuple[Dim, ...] | None:
    return value.type.shape if value is not None and isinstance(value.type, TensorType) else None


RULES = (Rule("constant-shape", op("Reshape", any_value("x"), any_value("shape")), plan=constant_shape),)
