"""Transposes move from a layer's result past element-wise operators, as far as another one that cancels them."""

from __future__ import annotations

import numpy as np

from qir.graph import Node, Value
from qir.ops import op_of
from qir.ops.definition import rank_of
from qir.passes.analysis.constants import array_of, frozen, is_standard
from qir.passes.simplify.fuse.transposes import BINARY, UNARY, order_of
from qir.rewriting.engine import Match, Plan, Reject, Rewriter, Rule, any_value, constant, either, op
from qir.types import TensorType, Type

_ELEMENTWISE = (*UNARY, *BINARY, "PRelu")
FIRST = op("Transpose", any_value("source"), name="first")
SECOND = op("Transpose", any_value("other"), name="second")
BELOW = either(
    op(UNARY, FIRST, ...),
    op((*BINARY, "PRelu"), FIRST, constant("constant")),
    op(BINARY, constant("constant"), FIRST),
    op(BINARY, FIRST, SECOND),
)


def sink_transposes(match: Match) -> Reject | Plan:
    """Return a layer, then Transpose, then an element-wise operator.

    The operator, with its constants turned, then Transpose.

    TensorFlow's networks have their channels last, and ONNX's layers first: between a layer and its bias, or the two
    sides of a residual, stand Transposes that cancel once nothing stands between them.
    """
    names = [name for name in ("first", "second") if name in match.values]
    orders = {order_of(match.node(name)) for name in names}
    order = orders.pop()
    if orders or order is None:
        return Reject("its operands are not transposed in the same known order")
    if not any(len(set(match[name].users)) == 1 for name in names):
        return Reject("it is read elsewhere too", match["first"])
    if not all(_follows_layer(match.node(name).input(0)) for name in names):
        return Reject("it does not follow a layer", match["first"])
    if "constant" in match.values and (rank_of(match["constant"]) or 0) > len(order):
        return Reject("it has more dimensions than the data", match["constant"])

    def change(rewriter: Rewriter) -> None:
        node = match.root
        operands = [None if value is None else _turned_back(node, value, order) for value in node.inputs]
        made = Node(node.op, operands, name=node.name, attributes=dict(node.attributes))
        made.result.type = _type_before(node.result.type, order)
        name = f"{node.name}.transpose" if node.name else ""
        rewriter.replace(node, [made, Node("Transpose", (made.result,), name=name, attributes={"perm": order})])

    return change


def _follows_layer(value: Value | None) -> bool:
    """Return whether a value is a layer's result, or made of such by element-wise operators."""
    waiting, seen = [value], set[Node]()
    while waiting:
        found = waiting.pop()
        node = None if found is None else found.producer
        if node is None or node in seen:
            continue
        if op_of(node).quantizable(node) is not None:
            return True
        seen.add(node)
        waiting += node.operands if is_standard(node, *_ELEMENTWISE) else ()
    return False


def _turned_back(node: Node, value: Value, order: tuple[int, ...]) -> Value:
    """Return the operand as it is before the Transpose: what was transposed, or a constant in the other order."""
    array = array_of(value)
    if array is None:
        return value.node.operand(0)
    if array.size == 1:
        return value
    full = array.reshape((1,) * (len(order) - array.ndim) + array.shape)
    made = np.ascontiguousarray(full.transpose(np.argsort(order)))
    return node.scope.add_constant(node.scope.clock.unique_name(f"{value.name}.transposed"), frozen(made))


def _type_before(known: Type, order: tuple[int, ...]) -> Type:
    if not isinstance(known, TensorType) or known.shape is None or len(known.shape) != len(order):
        return known
    return TensorType(known.element, tuple(known.shape[place] for place in np.argsort(order)))


RULES = (Rule("sink-transposes", BELOW, plan=sink_transposes, since=7),)
