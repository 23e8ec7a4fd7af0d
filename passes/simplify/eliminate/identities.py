"""Removal of nodes that hand their operand on unchanged."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from qir.graph import Node, Value
from qir.module import Module
from qir.passes.analysis.constants import array_of, constant_of, is_standard, replace, uniform_value
from qir.passes.infrastructure.contract import Pass, PassContext
from qir.tensor import Array, Tensor
from qir.types import TensorType


@dataclass(frozen=True)
class EliminateIdentities(Pass):
    """Remove nodes that change nothing, and turn Constant nodes into constants of the graph.

    Identity; Dropout outside training; Cast to the same type; Reshape and Expand to the same shape; Transpose in the
    same order; Add of 0, Mul by 1 and their inverses; Pad of nothing; Concat of one; pooling over one element. A node
    whose result a graph returns stays when its operand is not a result of that graph: the file would need it again.
    """

    name: ClassVar[str] = "eliminate-identities"

    def run(self, module: Module, context: PassContext) -> bool:
        """Remove; True when something was."""
        del context
        changed = False
        for graph, opsets in (
            (module.graph, module.opsets),
            *((f.graph, f.opsets or module.opsets) for f in module.functions.values()),
        ):
            opset = opsets.get("", opsets.get("ai.onnx", 1))
            for node in tuple(graph.walk()):
                if node.graph is not None and not any(a.reference for a in node.attributes.values()):
                    changed |= _hoist_constant(node) or _remove(node, opset)
        return changed


def _hoist_constant(node: Node) -> bool:
    if not is_standard(node, "Constant") or node.graph is None:
        return False
    tensor = _constant_tensor(node)
    if tensor is None or node.result.is_output:
        return False
    name = node.result.name
    value = node.graph.add_constant(Value(node.graph.clock.unique_name(name)), tensor)
    node.result.replace_all_uses_with(value)
    node.graph.erase(node)
    value.name = name
    return True


def _constant_tensor(node: Node) -> Tensor | None:
    tensor = node.attribute("value")
    if isinstance(tensor, Tensor):
        return tensor
    for suffix, element in (("float", np.float32), ("int", np.int64), ("string", object)):
        for key in (f"value_{suffix}", f"value_{suffix}s"):
            if key in node.attributes:
                return Tensor.of(np.asarray(node.attribute(key), dtype=element))
    return None


def _remove(node: Node, opset: int) -> bool:
    test = _TESTS.get(node.op) if is_standard(node, node.op) else None
    if test is None or any(value.uses for value in node.results[1:]) or not node.result.uses:
        return False
    source = test(node, opset)
    if source is None or not may_return(node, source):
        return False
    replace(node, source)
    return True


def may_return(node: Node, value: Value) -> bool:
    """Return whether `value` can take the place of a node's result in what its graph returns."""
    if not node.result.is_output:
        return True
    producer = value.producer
    return producer is not None and producer.graph is node.graph and not value.is_output


def _type(value: Value | None) -> TensorType | None:
    return value.type if value is not None and isinstance(value.type, TensorType) else None


def _same_shape(node: Node, data: Value) -> bool:
    before, after = _type(data), _type(node.result)
    if before is None or after is None:
        return False
    shape = before.static_shape()
    return shape is not None and shape == after.static_shape()


def _always(node: Node, opset: int) -> Value | None:
    del opset
    return node.input(0)


def _dropout(node: Node, opset: int) -> Value | None:
    if opset < 7:
        return node.input(0) if node.attribute("is_test", 0) else None
    mode = node.input(2)
    return node.input(0) if mode is None or uniform_value(_as_number(mode)) == 0 else None


def _as_number(value: Value) -> Array | None:
    array = array_of(value)
    return None if array is None else array.astype(np.int64)


def _cast(node: Node, opset: int) -> Value | None:
    del opset
    data = node.input(0)
    before = _type(data)
    return data if before is not None and before.dtype.onnx_code == node.attribute("to") else None


def _cast_like(node: Node, opset: int) -> Value | None:
    del opset
    data, before, like = node.input(0), _type(node.input(0)), _type(node.input(1))
    return data if before is not None and like is not None and before.dtype is like.dtype else None


def _to_same_shape(node: Node, opset: int) -> Value | None:
    del opset
    data = node.input(0)
    return data if data is not None and _same_shape(node, data) else None


def _transpose(node: Node, opset: int) -> Value | None:
    del opset
    order = node.attribute("perm")
    return node.input(0) if order is not None and tuple(order) == tuple(range(len(order))) else None


def _neutral(number: float, *, either: bool) -> Callable[[Node, int], Value | None]:
    def test(node: Node, opset: int) -> Value | None:
        del opset
        for index in (1, 0) if either else (1,):
            other = node.input(1 - index)
            constant = constant_of(node.input(index))
            if constant is None or other is None or constant.size > 2**16:
                continue
            if uniform_value(constant.numpy()) == number and _broadcasts_to(constant, other):
                return other
        return None

    return test


def _broadcasts_to(constant: Tensor, other: Value) -> bool:
    """Return whether the constant surely does not enlarge the other operand."""
    known = _type(other)
    shape = None if known is None else known.shape
    if shape is None:
        return constant.shape == ()
    if len(constant.shape) > len(shape):
        return False
    aligned = shape[len(shape) - len(constant.shape) :]
    return all(d in {1, s} for d, s in zip(constant.shape, aligned, strict=True))


def _pad(node: Node, opset: int) -> Value | None:
    del opset
    pads = node.attribute("pads")
    if pads is None:
        pads = array_of(node.input(1))
    return node.input(0) if pads is not None and not np.any(np.asarray(pads)) else None


def _concat(node: Node, opset: int) -> Value | None:
    del opset
    return node.input(0) if len(node.inputs) == 1 else None


def _pool(node: Node, opset: int) -> Value | None:
    del opset
    kernel, strides, pads = (node.attribute(key, ()) for key in ("kernel_shape", "strides", "pads"))
    trivial = kernel and set(kernel) == {1} and set(strides) <= {1} and not any(pads)
    return node.input(0) if trivial else None


_TESTS: dict[str, Callable[[Node, int], Value | None]] = {
    "Identity": _always,
    "Dropout": _dropout,
    "Cast": _cast,
    "CastLike": _cast_like,
    "Reshape": _to_same_shape,
    "Flatten": _to_same_shape,
    "Expand": _to_same_shape,
    "Squeeze": _to_same_shape,
    "Unsqueeze": _to_same_shape,
    "Transpose": _transpose,
    "Add": _neutral(0.0, either=True),
    "Sub": _neutral(0.0, either=False),
    "Mul": _neutral(1.0, either=True),
    "Div": _neutral(1.0, either=False),
    "Pad": _pad,
    "Concat": _concat,
    "MaxPool": _pool,
    "AveragePool": _pool,
}
