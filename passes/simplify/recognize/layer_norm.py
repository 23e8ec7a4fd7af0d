"""Layer normalization recognized from its spelled-out form."""

from __future__ import annotations

import numpy as np

from qir.graph import Node, Value
from qir.passes.analysis.constants import array_of, uniform_value
from qir.rewriting.engine import Match, Pattern, Reject, Rewriter, Rule, any_value, constant, either, number, op
from qir.tensor import Tensor, numpy_dtype


def _mean(value: Pattern, name: str) -> Pattern:
    return op("ReduceMean", value, ..., name=name, only_use=True)


X = any_value("x")
CENTERED = op("Sub", X, _mean(X, "mean"), name="centered")
SQUARE = either(
    op("Pow", CENTERED, number(2.0), name="square", only_use=True),
    op("Mul", CENTERED, CENTERED, name="square"),
)
VARIANCE = op("Add", _mean(SQUARE, "variance"), number(name="epsilon"), commutes=True, only_use=True)
DEVIATION = op("Sqrt", VARIANCE, only_use=True)
NORMALIZED = op("Div", CENTERED, DEVIATION, name="normalized")
VECTOR = constant("vector")
SCALED = op("Mul", op("Div", CENTERED, DEVIATION, name="normalized", only_use=True), VECTOR, commutes=True)
NORMALIZATION = op(
    "LayerNormalization", X, constant("scale"), attributes={"axis": -1}, name="normalized", only_use=True
)


def _is_layer_norm(match: Match) -> Reject | None:
    for name in ("mean", "variance"):
        if not _over_last_dimension(match.node(name)):
            return Reject("it is not a mean over the last dimension that keeps it", match[name])
    if set(match["centered"].users) != {match.node("normalized"), match.node("square")}:
        return Reject("the difference is used elsewhere too", match["centered"])
    if "vector" in match.values:
        return _spans(match)
    return Reject("the length of the last dimension is unknown", match["x"]) if _length(match["x"]) is None else None


def _spans(match: Match) -> Reject | None:
    vector, length = array_of(match["vector"]), _length(match["x"])
    fits = vector is not None and vector.ndim == 1 and (vector.size == length if length else vector.size > 1)
    return None if fits else Reject("it is not a vector over the last dimension", match["vector"])


def _has_no_scale(match: Match) -> Reject | None:
    if uniform_value(array_of(match["scale"])) != 1.0:
        return Reject("it has a scale already", match["scale"])
    return _spans(match)


def _normalize(match: Match, rewriter: Rewriter) -> None:
    """LayerNormalization over the last dimension; its scale is the vector, or ones."""
    scale = match.values.get("vector")
    if scale is None:
        ones = np.ones(_length(match["x"]) or 0, numpy_dtype(match["x"].tensor_type.dtype))
        scale = match.root.scope.add_constant(f"{match.root.result.name}.scale", Tensor.of(ones))
    attributes = {"axis": -1, "epsilon": match.number("epsilon")}
    rewriter.replace(match.root, [Node("LayerNormalization", (match["x"], scale), attributes=attributes)])


def _scale(match: Match, rewriter: Rewriter) -> None:
    _again(match, rewriter, match["x"], match["vector"])


def _shift(match: Match, rewriter: Rewriter) -> None:
    _again(match, rewriter, match["x"], match["scale"], match["vector"])


def _again(match: Match, rewriter: Rewriter, *operands: Value) -> None:
    """Give the same normalization other operands."""
    attributes = match.node("normalized").attributes
    rewriter.replace(match.root, [Node("LayerNormalization", operands, attributes=attributes)])


def _over_last_dimension(mean: Node) -> bool:
    given, rank = array_of(mean.input(1)), mean.operand(0).rank
    axes = mean.attribute("axes") if given is None else tuple(given.reshape(-1).tolist())
    return bool(mean.attribute("keepdims", 1)) and axes in {(-1,), (-1 if rank is None else rank - 1,)}


def _length(x: Value) -> int | None:
    last = (x.shape or (None,))[-1]
    return last if isinstance(last, int) else None


RULES = (
    Rule("layer-normalization", either(SCALED, NORMALIZED), _normalize, _is_layer_norm, since=17),
    Rule("layer-normalization-scale", op("Mul", NORMALIZATION, VECTOR, commutes=True), _scale, _has_no_scale, since=17),
    Rule("layer-normalization-shift", op("Add", NORMALIZATION, VECTOR, commutes=True), _shift, _spans, since=17),
)
