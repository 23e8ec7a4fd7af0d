"""Layer normalization recognized from its spelled-out form."""

from __future__ import annotations

import numpy as np

from qir.graph import Node, Value
from qir.passes.analysis.constants import array_of, is_standard, uniform_value
from qir.rewriting.engine import Match, Pattern, Reject, Rewriter, Rule, any_value, constant, either, number, op
from qir.tensor import Tensor, numpy_dtype
from qir.types import TensorType


def _mean(value: Pattern, name: str) -> Pattern:
    return op("ReduceMean", value, ..., name=name, only_use=True)


X = any_value("x")
CENTERED = op("Sub", X, _mean(X, "mean"), name="centered")
SQUARE = either(
    op("Pow", CENTERED, number(2.0), name="square", only_use=True),
    op("Mul", CENTERED, CENTERED, name="square"),
)
VARIANCE = op("Add", _mean(SQUARE, "variance"), number(name="epsilon"), commutes=True, only_use=True)
NORMALIZED = op("Div", CENTERED, op("Sqrt", VARIANCE, only_use=True), name="normalized")
SCALED = op("Mul", NORMALIZED, constant("vector"), commutes=True)
NORMALIZATION = op(
    "LayerNormalization", X, constant("scale"), attributes={"axis": -1}, name="normalized", only_use=True
)


def _is_layer_norm(match: Match) -> Reject | None:
    """Over the last dimension; the scale is a vector over it, or its length is known."""
    for name in ("mean", "variance"):
        if not _over_last_dimension(match.node(name)):
            return Reject("it is not a mean over the last dimension that keeps it", match[name])
    if {use.node for use in match["centered"].uses} != {match.node("normalized"), match.node("square")}:
        return Reject("the difference is used elsewhere too", match["centered"])
    if "vector" in match.values:
        return (
            Reject("several nodes use it", match["normalized"]) if len(match["normalized"].uses) > 1 else _spans(match)
        )
    return (
        None if _length(match["x"]) is not None else Reject("the length of the last dimension is unknown", match["x"])
    )


def _spans(match: Match) -> Reject | None:
    vector, length = array_of(match["vector"]), _length(match["x"])
    fits = vector is not None and vector.ndim == 1 and (vector.size == length if length else vector.size > 1)
    return None if fits else Reject("it is not a vector over the last dimension", match["vector"])


def _has_no_scale(match: Match) -> Reject | None:
    if uniform_value(array_of(match["scale"])) != 1.0:
        return Reject("it has a scale already", match["scale"])
    return _spans(match)


def _normalize(match: Match, rewriter: Rewriter) -> None:
    scale = match.values.get("vector") or _ones(match)
    attributes = {"axis": -1, "epsilon": match.number("epsilon")}
    rewriter.replace(match.root, [Node("LayerNormalization", (match["x"], scale), attributes=attributes)])


def _add_operand(match: Match, rewriter: Rewriter) -> None:
    before = match.node("normalized")
    operands = (match["x"], *((match["scale"],) if is_standard(match.root, "Add") else ()), match["vector"])
    rewriter.replace(match.root, [Node("LayerNormalization", operands, attributes=before.attributes)])


def _ones(match: Match) -> Value:
    x, graph = match["x"].type, match.root.graph
    assert isinstance(x, TensorType) and graph is not None  # noqa: S101, PT018 - its length is known
    ones = np.ones(_length(match["x"]) or 0, numpy_dtype(x.dtype))
    return graph.add_constant(f"{match.root.result.name}.scale", Tensor.of(ones))


def _over_last_dimension(reduce: Node) -> bool:
    axes, given, data = reduce.attribute("axes"), array_of(reduce.input(1)), reduce.input(0)
    axes = axes if given is None else tuple(given.reshape(-1).tolist())
    rank = data.type.rank if data is not None and isinstance(data.type, TensorType) else None
    last = {(-1,)} if rank is None else {(-1,), (rank - 1,)}
    return bool(reduce.attribute("keepdims", 1)) and axes in last


def _length(x: Value) -> int | None:
    shape = x.type.shape if isinstance(x.type, TensorType) else None
    return shape[-1] if shape and isinstance(shape[-1], int) else None


RULES = (
    Rule("layer-normalization", either(SCALED, NORMALIZED), _normalize, _is_layer_norm, since=17),
    Rule(
        "layer-normalization-scale",
        op("Mul", NORMALIZATION, constant("vector"), commutes=True),
        _add_operand,
        _has_no_scale,
        since=17,
    ),
    Rule(
        "layer-normalization-shift",
        op("Add", NORMALIZATION, constant("vector"), commutes=True),
        _add_operand,
        _spans,
        since=17,
    ),
)
