"""MultiThreshold on real values and annotated integer weights, as FINN's own conversions write them, raised."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import numpy as np

from qir.constants import require_array
from qir.graph import Graph, Use
from qir.onnx_io.annotations import FINN_DATATYPE, read_annotations
from qir.ops import op_of
from qir.passes.analysis.constants import array_of
from qir.passes.lowering.qonnx.thresholds import value_thresholds
from qir.passes.raising.grids import CodeGrid, QuantizerSpec, bipolar_spec, spec_of
from qir.passes.raising.qonnx.patterns import of_qonnx
from qir.passes.raising.state import RaiseState, base_name
from qir.rewriting.engine import Match, Plan, Reject, Rewriter, Rule, any_value, constant, either, op
from qir.tensor import Array

CLOSE = 2.0**-16
"""Thresholds that other tools compute lie within this part of a step around the exact ones."""


def threshold_rules(state: RaiseState) -> tuple[tuple[Rule, ...], ...]:
    """Return a MultiThreshold in equal steps, with the Add and the Mul after it: a fake-quant node on its operand.

    The rules of the longest form come first; each part is worked off before the next.
    """
    thresholds = of_qonnx("MultiThreshold", any_value("data"), constant("table"), only_use=True)
    shifted = op("Add", thresholds, constant("bias"), commutes=True, only_use=True)
    scaled = op("Mul", either(shifted, thresholds), constant("scale"), commutes=True)
    plan = partial(_plan, state)
    return (
        (Rule("multi-threshold-scaled", scaled, plan=plan),),
        (Rule("multi-threshold-shifted", shifted, plan=plan),),
        (Rule("multi-threshold", thresholds, plan=plan),),
    )


def _plan(state: RaiseState, match: Match) -> Reject | Plan:
    node, table = match.node("quantizer"), require_array(match["table"])
    step, bias, scale = node.attribute("out_scale", 1.0), node.attribute("out_bias", 0.0), np.ones(1, np.float32)
    if "bias" in match.values:
        added = require_array(match["bias"])
        if added.size != 1:
            return Reject("what is added to its result is not one number", match["bias"])
        bias += float(added.reshape(-1)[0])
    if "scale" in match.values:
        scale = require_array(match["scale"]).astype(np.float32)
        if scale.size != max(1, *scale.shape, 1):
            return Reject("what its result is multiplied by is not one number a channel", match["scale"])
    if table.ndim != 2:
        return Reject("its thresholds are not [channels, thresholds]", match["table"])
    spec = _spec(table.astype(np.float32), _Steps(step, bias, scale), match.root.result.rank)
    if isinstance(spec, Reject):
        return spec
    grid = spec.parameters()
    if (np.abs(value_thresholds(grid) - table) > CLOSE * grid.scale[:, None]).any():
        return Reject("its thresholds are not those of equal steps around its values")
    return state.plan(match, spec, base_name(node.name) or f"{match['data'].name}.quantizer")


@dataclass(frozen=True, eq=False)
class _Steps:
    """What MultiThreshold and the Add and Mul after it give: (count · step + bias) · scale."""

    step: float
    bias: float
    scale: Array


def raise_annotated_weights(graph: Graph, state: RaiseState) -> None:
    """Float weights that an annotation calls integers: a fake-quant node with scale 1."""
    types = (
        {name: pairs.get(FINN_DATATYPE, "") for name, pairs in read_annotations(graph).items()} if graph.opaque else {}
    )
    rewriter = Rewriter("annotated-weight")
    for node in graph.nodes:
        operands = op_of(node).quantizable(node)
        weight = None if operands is None else node.input(operands.weight)
        if operands is None or weight is None or not weight.is_constant or weight.name not in types:
            continue
        spec = _integers(types[weight.name])
        values = array_of(weight)
        if spec is None or values is None or (values != np.rint(values)).any():
            continue
        made = rewriter.insert(state.quantizer(weight, spec, weight.name), before=node)
        rewriter.redirect([Use(node, operands.weight)], made.result)


def _integers(label: str) -> QuantizerSpec | None:
    """Return the grid of scale 1 of an integer type; None for other types."""
    one = np.ones(1, np.float32)
    if label == "BIPOLAR":
        return bipolar_spec(one, None)
    signed, digits = label.startswith("INT"), label.removeprefix("U").removeprefix("INT")
    bits = {"TERNARY": 2, "BINARY": 1}.get(label, int(digits) if digits.isdigit() else 0)
    if not bits:
        return None
    signed |= label == "TERNARY"
    high = (1 << (bits - signed)) - 1
    low = -high - (label != "TERNARY") if signed else 0
    found = spec_of(CodeGrid(one, np.zeros(1, np.int64), None, low, high))
    return None if isinstance(found, Reject) else found


def _axis(scale: Array, rank: int) -> int:
    """Return the axis of a tensor along which a constant holds one number a channel."""
    return scale.shape.index(scale.size) + rank - scale.ndim


def _spec(table: Array, steps: _Steps, rank: int | None) -> QuantizerSpec | Reject:
    low, count = steps.bias / steps.step, table.shape[1]
    if steps.scale.size > 1 and rank is None:
        return Reject("its scale is one per channel and its rank is unknown")
    axis = None if rank is None or steps.scale.size == 1 else _axis(steps.scale, rank)
    scales = np.asarray(steps.scale.reshape(-1) * np.float32(steps.step), np.float32)
    if count == 1 and steps.bias == -steps.step / 2 and not table.any():
        return bipolar_spec(scales / 2, axis)
    if low % 1:
        return Reject("its result has no zero")
    first = int(low)
    half = (count + 1) // 2
    if first in {-half, 1 - half} and count > 1:
        return spec_of(CodeGrid(scales, np.zeros(scales.size, np.int64), axis, first, first + count))
    return spec_of(CodeGrid(scales, np.full(scales.size, -first), axis, 0, count))
