"""Activations recognized from their spelled-out forms: Clip (ReLU6), HardSigmoid, HardSwish."""

from __future__ import annotations

import math

import numpy as np

from qir.constants import is_standard, number_of
from qir.graph import Node, Value
from qir.rewriting.engine import Match, Pattern, Plan, Reject, Rewriter, Rule, any_value, either, number, op
from qir.tensor import Tensor, numpy_dtype
from qir.types import TensorType

Bounds = tuple[float, float]


def _clipped(value: Pattern, *, name: str = "", only_use: bool = False) -> Pattern:
    return either(
        op(("Relu", "Clip"), value, ..., name=name, only_use=only_use),
        op(("Max", "Min"), value, number(), name=name, only_use=only_use, commutes=True),
    )


def _relu6(value: Pattern) -> Pattern:
    return either(
        op("Clip", value, number(0.0), number(6.0), only_use=True),
        op("Clip", value, attributes={"min": 0.0, "max": 6.0}, only_use=True),
    )


def _sixth(value: Pattern) -> Pattern:
    return either(op("Div", value, number(6.0)), op("Mul", value, number(1 / 6), commutes=True))


X = any_value("x")
GATE = _relu6(op("Add", X, number(3.0), commutes=True, only_use=True))
HARD_SIGMOID = op("HardSigmoid", X, attributes={"alpha": 1 / 6, "beta": 0.5}, only_use=True)
HARD_SWISH = either(
    op("Mul", X, HARD_SIGMOID, commutes=True),
    _sixth(op("Mul", X, GATE, commutes=True, only_use=True)),
)


def to_hard_sigmoid(match: Match, rewriter: Rewriter) -> None:
    """Clip(x + 3, 0, 6) / 6 is HardSigmoid(x, 1/6, 1/2)."""
    rewriter.replace(match.root, [Node("HardSigmoid", (match["x"],), attributes={"alpha": 1 / 6, "beta": 0.5})])


def to_hard_swish(match: Match, rewriter: Rewriter) -> None:
    """X * HardSigmoid(x) and x * Clip(x + 3, 0, 6) / 6 are HardSwish(x) (operator set 14)."""
    rewriter.replace(match.root, [Node("HardSwish", (match["x"],))])


def merge_clips(match: Match) -> Reject | Plan:
    """Return two clips in a row, one of them Max, Min or Relu: one Clip (Clip(0, 6) is ReLU6), or one Relu."""
    kind = match.root.result.type
    if not isinstance(kind, TensorType) or not kind.dtype.is_float:
        return Reject("its values are not floating-point numbers", match.root.result)
    outer, inner = bounds_of(match.root), bounds_of(match.node("inner"))
    if outer is None or inner is None:
        return Reject("a bound is not a number that leaves the shape as it is")
    (low1, high1), (low2, high2) = inner, outer
    if low1 > high1 or low2 > high2:
        return Reject("the lower bound of a clip is above its upper one")
    bounds = min(max(low1, low2), high2), min(max(high1, low2), high2)
    return lambda rewriter: rewriter.replace(match.root, [_clip(match.root, match["x"], bounds)])


def bounds_of(node: Node) -> Bounds | None:
    """Return the bounds of a node that clips: Relu, Clip, Max and Min with one number."""
    if is_standard(node, "Relu"):
        return 0.0, math.inf
    if is_standard(node, "Clip"):
        low, high = _bound(node, 1, "min", -math.inf), _bound(node, 2, "max", math.inf)
        return None if low is None or high is None else (low, high)
    data, by = node.operands if number_of(node.operands[1]) is not None else node.operands[::-1]
    bound = number_of(by)
    if bound is None or (_rank(by) or 0) > (_rank(data) or 0):
        return None
    return (bound, math.inf) if is_standard(node, "Max") else (-math.inf, bound)


def _bound(node: Node, index: int, name: str, default: float) -> float | None:
    return float(node.attribute(name, default)) if node.input(index) is None else number_of(node.input(index))


def _rank(value: Value) -> int | None:
    return value.type.rank if isinstance(value.type, TensorType) else None


def _clip(node: Node, data: Value, bounds: Bounds) -> Node:
    """Clip (Relu for 0 to infinity) on `data`, with constants named after a node's result."""
    if bounds == (0.0, math.inf):
        return Node("Relu", (data,))
    operands: list[Value | None] = [data]
    for label, bound in zip(("min", "max"), bounds, strict=True):
        number = np.asarray(bound, numpy_dtype(node.result.tensor_type.dtype))
        made = None if math.isinf(bound) else node.scope.add_constant(f"{node.result.name}.{label}", Tensor.of(number))
        operands.append(made)
    return Node("Clip", operands[: 2 if operands[2] is None else 3])


RULES = (
    Rule("merge-clips", _clipped(_clipped(X, name="inner", only_use=True)), plan=merge_clips, since=11),
    Rule("hard-swish", HARD_SWISH, to_hard_swish, since=14),
    Rule("hard-sigmoid", _sixth(GATE), to_hard_sigmoid, since=6),
)
