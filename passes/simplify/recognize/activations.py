"""Activations recognized from their spelled-out forms: Clip (ReLU6), HardSigmoid, HardSwish."""

from __future__ import annotations

import math

import numpy as np

from qir.graph import Node, Value
from qir.passes.analysis.constants import constant_of, erase, frozen, is_standard, replace
from qir.passes.analysis.rules import scalar, sole_producer, with_scalar
from qir.rewriting.engine import Match, Plan, Reject, Rewriter, Rule, op
from qir.tensor import numpy_dtype
from qir.types import TensorType

Bounds = tuple[float, float]


def bounds_of(node: Node) -> tuple[Value, Bounds] | None:
    """The operand of a node that clips, and the bounds: Relu, Clip, Max and Min with one number."""
    data = node.input(0)
    if data is None:
        return None
    if is_standard(node, "Relu"):
        return data, (0.0, math.inf)
    if is_standard(node, "Clip"):
        return _clip_bounds(node, data)
    if is_standard(node, "Max", "Min") and len(node.inputs) == 2:
        found = with_scalar(node, commutes=True)
        if found is not None and _keeps_shape(node, found[0]):
            return found[0], (found[1], math.inf) if is_standard(node, "Max") else (-math.inf, found[1])
    return None


def _clip_bounds(node: Node, data: Value) -> tuple[Value, Bounds] | None:
    bounds = []
    for index, key, default in ((1, "min", -math.inf), (2, "max", math.inf)):
        number = node.attribute(key, default) if node.input(index) is None else scalar(node.input(index))
        if number is None:
            return None
        bounds.append(float(number))
    return data, (bounds[0], bounds[1])


def _keeps_shape(node: Node, data: Value) -> bool:
    """Whether the number's rank surely does not add dimensions."""
    ranks = [constant.shape for value in node.operands if (constant := constant_of(value)) is not None]
    known = data.type.rank if isinstance(data.type, TensorType) else None
    return all(len(shape) <= (known or 0) for shape in ranks)


def merge_clips(match: Match) -> Reject | Plan:
    """Two clips in a row, one of them Max, Min or Relu: one Clip (Clip(0, 6) is ReLU6), or one Relu."""
    node = match.root
    if not _is_float(node.result):
        return Reject("its values are not floating-point numbers")
    outer = bounds_of(node)
    inner_node = None if outer is None else sole_producer(outer[0], "Relu", "Clip", "Max", "Min")
    inner = None if inner_node is None else bounds_of(inner_node)
    if outer is None or inner_node is None or inner is None or inner_node.graph is not node.graph:
        return Reject("no clip by numbers that only it uses stands before it")
    (low1, high1), (low2, high2) = inner[1], outer[1]
    if low1 > high1 or low2 > high2:
        return Reject("the lower bound of a clip is above its upper one")
    data = inner[0]
    bounds = min(max(low1, low2), high2), min(max(high1, low2), high2)

    def change(rewriter: Rewriter) -> None:
        replace_by_clip(node, data, bounds, rewriter)
        erase(inner_node)

    return change


def replace_by_clip(node: Node, data: Value, bounds: Bounds, rewriter: Rewriter) -> None:
    """Put Clip (Relu for 0 to infinity) on `data` in the place of a node."""
    graph, low, high = node.graph, *bounds
    assert graph is not None  # noqa: S101 - passes rewrite nodes that stand in a graph
    name = node.name
    if bounds == (0.0, math.inf):
        made = Node("Relu", (data,), name=name)
    else:
        element = node.result.type.dtype if isinstance(node.result.type, TensorType) else None
        dtype = np.float32 if element is None else numpy_dtype(element)
        operands: list[Value | None] = [data]
        for label, bound in (("min", low), ("max", high)):
            unbounded = math.isinf(bound)
            constant = None if unbounded else frozen(np.asarray(bound, dtype))
            operands.append(None if constant is None else graph.add_constant(f"{node.result.name}.{label}", constant))
        made = Node("Clip", operands[: 2 if operands[2] is None else 3], name=name)
    _put(made, node, rewriter)


def _put(made: Node, node: Node, rewriter: Rewriter) -> None:
    """Put a new node in the place of one."""
    made.result.type = node.result.type
    rewriter.insert(made, before=node)
    replace(node, made.result)


def _is_float(value: Value) -> bool:
    return isinstance(value.type, TensorType) and value.type.dtype.is_float


def hard_sigmoid(match: Match) -> Reject | Plan:
    """Clip(x + 3, 0, 6) / 6, also written as a product with 1/6: HardSigmoid(alpha=1/6, beta=1/2)."""
    node = match.root
    found = with_scalar(node, commutes=is_standard(node, "Mul"))
    if found is None:
        return Reject("no operand is a number")
    factor = 1.0 / found[1] if is_standard(node, "Div") and found[1] else found[1]
    shifted = _clip_of_x_plus_3(found[0])
    if not math.isclose(factor, 1 / 6, rel_tol=1e-5) or shifted is None:
        return Reject("it is not Clip(x + 3, 0, 6) / 6")
    x, parts = shifted

    def change(rewriter: Rewriter) -> None:
        attributes = {"alpha": 1.0 / 6.0, "beta": 0.5}
        _put(Node("HardSigmoid", (x,), name=node.name, attributes=attributes), node, rewriter)
        _erase_all(parts)

    return change


def _clip_of_x_plus_3(value: Value) -> tuple[Value, list[Node]] | None:
    """x, and the nodes, when the value is Clip(x + 3, 0, 6) and nothing else uses it."""
    clip = sole_producer(value, "Clip")
    clipped = None if clip is None else bounds_of(clip)
    add = None if clipped is None or clipped[1] != (0.0, 6.0) else sole_producer(clipped[0], "Add")
    shifted = None if add is None else with_scalar(add, commutes=True)
    if clip is None or add is None or shifted is None or shifted[1] != 3.0:
        return None
    return shifted[0], [clip, add]


def hard_swish(match: Match) -> Reject | Plan:
    """X * HardSigmoid(x) and x * Clip(x + 3, 0, 6) / 6: HardSwish (operator set 14)."""
    node = match.root
    found = _x_times_hard_sigmoid(node) or _divided_product(node)
    if found is None:
        return Reject("it is neither x * HardSigmoid(x) nor x * Clip(x + 3, 0, 6) / 6")
    x, parts = found

    def change(rewriter: Rewriter) -> None:
        _put(Node("HardSwish", (x,), name=node.name), node, rewriter)
        _erase_all(parts)

    return change


def _x_times_hard_sigmoid(node: Node) -> tuple[Value, list[Node]] | None:
    for index in (0, 1):
        gate = sole_producer(node.input(index), "HardSigmoid")
        x = node.input(1 - index)
        if gate is None or x is None or gate.input(0) is not x or not is_standard(node, "Mul"):
            continue
        alpha, beta = gate.attribute("alpha", 0.2), gate.attribute("beta", 0.5)
        if math.isclose(alpha, 1 / 6, rel_tol=1e-5) and beta == 0.5:
            return x, [gate]
    return None


def _divided_product(node: Node) -> tuple[Value, list[Node]] | None:
    found = with_scalar(node, commutes=is_standard(node, "Mul"))
    if found is None or not found[1]:
        return None
    factor = 1.0 / found[1] if is_standard(node, "Div") else found[1]
    product = sole_producer(found[0], "Mul")
    if product is None or not math.isclose(factor, 1 / 6, rel_tol=1e-5):
        return None
    for index in (0, 1):
        gate, x = product.input(index), product.input(1 - index)
        clipped = None if gate is None else _clip_of_x_plus_3(gate)
        if clipped is not None and x is clipped[0]:
            return clipped[0], [product, *clipped[1]]
    return None


def _erase_all(nodes: list[Node]) -> None:
    for node in nodes:
        if not any(value.uses for value in node.results):
            erase(node)


RULES = (
    Rule("merge-clips", op(("Relu", "Clip", "Max", "Min")), plan=merge_clips, since=11),
    Rule("hard-swish", op(("Mul", "Div")), plan=hard_swish, since=14),
    Rule("hard-sigmoid", op(("Mul", "Div")), plan=hard_sigmoid, since=6),
)
