"""ConvInteger and MatMulInteger with the multiplication after them, raised into float layers.

The form: integer sums → Add of an int32 constant (the bias) → Cast to float → Mul by s_x·s_w.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from qir.graph import Node, Value
from qir.passes.analysis.affine import Reject
from qir.passes.analysis.constants import array_of, frozen, is_standard
from qir.passes.raising.grids import CodeGrid
from qir.passes.raising.qdq import twin_type
from qir.passes.raising.state import RaiseState, base_name, element_of
from qir.tensor import Array

OPS = {"ConvInteger": "Conv", "MatMulInteger": "MatMul"}


@dataclass(frozen=True, eq=False)
class _Tail:
    """What follows the sums: the bias, the factor, and the last node."""

    bias: Array | None
    factor: Array
    last: Node


def raise_integer_layer(node: Node, state: RaiseState) -> bool:
    """Write integer sums on known codes as the float layer; False where they have another form."""
    data, codes, tail = node.input(0), array_of(node.input(1)), _tail(node)
    known = None if data is None else state.twins.get(data)
    zero = array_of(node.input(3))
    if known is None or codes is None or tail is None or (zero is None and node.input(3) is not None):
        return False
    twin, grid = known
    axis = 0 if node.op == "ConvInteger" else codes.ndim - 1
    scale = _weight_scale(tail.factor.reshape(-1), grid.scale)
    dtype = element_of(node.input(1))
    zeros = np.zeros(1, np.int64) if zero is None else zero.astype(np.int64).reshape(-1)
    if scale is None or dtype is None or scale.size not in (1, codes.shape[axis]) or zeros.size not in (1, scale.size):
        return False
    limits = np.iinfo(codes.dtype)
    weight_grid = CodeGrid(
        scale,
        np.broadcast_to(zeros, scale.shape),
        axis if scale.size > 1 else None,
        int(limits.min),
        int(limits.max),
    )
    weight = state.weight(node.operand(1), codes, weight_grid)
    if isinstance(weight, Reject):
        return False
    _replace(node, twin, weight, tail, state)
    return True


def _replace(node: Node, data: Value, weight: Value, tail: _Tail, state: RaiseState) -> None:
    name = base_name((node.name or node.result.name).removesuffix(".sums"))
    operands: list[Value | None] = [data, weight]
    bias = None
    if tail.bias is not None:
        values = (tail.bias.astype(np.float64).reshape(-1) * tail.factor.reshape(-1)).astype(np.float32)
        bias = state.graph.add_constant(f"{name}.bias", frozen(values))
    if bias is not None and node.op == "ConvInteger":
        operands.append(bias)
    attributes = dict(node.attributes)
    gemm = bias is not None and node.op == "MatMulInteger"
    made = Node(
        "Gemm" if gemm else OPS[node.op], [*operands, bias] if gemm else operands, name=name, attributes=attributes
    )
    made.result.type = twin_type(node.result)
    state.graph.insert(made, after=tail.last)
    tail.last.result.replace_all_uses_with(made.result)


def _tail(node: Node) -> _Tail | None:
    value, bias = node.result, None
    user = _only_user(value)
    if user is not None and is_standard(user, "Add"):
        bias = _other(user, value)
        value = user.result
        user = _only_user(value) if bias is not None else None
    if user is None or not is_standard(user, "Cast"):
        return None
    value = user.result
    user = _only_user(value)
    factor = _other(user, value) if user is not None and is_standard(user, "Mul") else None
    return None if factor is None or user is None else _Tail(bias, factor, user)


def _only_user(value: Value) -> Node | None:
    return value.users[0] if len(value.uses) == 1 else None


def _other(node: Node, value: Value) -> Array | None:
    return array_of(node.input(1) if node.input(0) is value else node.input(0))


def _weight_scale(product: Array, data: npt.NDArray[np.float32]) -> npt.NDArray[np.float32] | None:
    """A float32 s_w with float32(s_x * s_w) equal to the product, found by trying near ones."""
    if data.size != 1:
        return None
    first = (product / data[0]).astype(np.float32)
    found, missing = first.copy(), np.ones(first.shape, bool)
    for direction in (0, np.inf, -np.inf):
        trial = first if direction == 0 else np.nextafter(first, np.float32(direction))
        fits = missing & (data[0] * trial == product)
        found[fits] = trial[fits]
        missing &= ~fits
    return None if missing.any() else found
