"""MultiThreshold on real values and annotated integer weights, as FINN's own conversions write them, raised."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from qir.fake_quant import FakeQuant
from qir.graph import Graph, Node, Value
from qir.onnx_io.annotations import FINN_DATATYPE, read_annotations
from qir.ops import op_of
from qir.passes.analysis.affine import Reject
from qir.passes.analysis.constants import array_of, is_standard
from qir.passes.lowering.qonnx.thresholds import value_thresholds
from qir.passes.raising.grids import CodeGrid, QuantizerSpec, bipolar_spec, spec_of
from qir.passes.raising.state import RaiseState, base_name
from qir.tensor import Array

CLOSE = 2.0**-16
"""Thresholds that other tools compute lie within this part of a step around the exact ones."""


@dataclass(frozen=True, eq=False)
class _Steps:
    """What MultiThreshold and the Add and Mul after it give: (count · step + bias) · scale, and the last of them."""

    step: float
    bias: float
    scale: Array
    last: Node


def raise_multi_threshold(node: Node, state: RaiseState) -> None:
    """A MultiThreshold in equal steps: a fake-quant node on its operand."""
    data, table = node.input(0), array_of(node.input(1))
    if data is None or table is None or table.ndim != 2:
        state.leave(node, "its thresholds are not constant")
        return
    steps = _after(node)
    spec = _spec(table.astype(np.float32), steps)
    if isinstance(spec, Reject):
        state.leave(node, spec.reason)
        return
    name = base_name(node.name) or f"{data.name}.quantizer"
    made = state.graph.insert(state.quantizer(data, spec, name), after=steps.last)
    grid = FakeQuant(made).grid()
    if (np.abs(value_thresholds(grid) - table) > CLOSE * grid.scale[:, None]).any():
        state.graph.erase(made)
        state.made.remove(made.name)
        state.leave(node, "its thresholds are not those of equal steps around its values")
        return
    steps.last.result.replace_all_uses_with(made.result)


def raise_annotated_weights(graph: Graph, state: RaiseState) -> None:
    """Float weights that an annotation calls integers: a fake-quant node with scale 1."""
    types = (
        {name: pairs.get(FINN_DATATYPE, "") for name, pairs in read_annotations(graph).items()} if graph.opaque else {}
    )
    for node in graph.nodes:
        operands = op_of(node).quantizable(node)
        weight = None if operands is None else node.input(operands.weight)
        if operands is None or weight is None or not weight.is_constant or weight.name not in types:
            continue
        spec = _integers(types[weight.name])
        values = array_of(weight)
        if spec is None or values is None or (values != np.rint(values)).any():
            continue
        made = graph.insert(state.quantizer(weight, spec, weight.name), before=node)
        node.set_input(operands.weight, made.result)


def _integers(label: str) -> QuantizerSpec | None:
    """The grid of scale 1 of an integer type; None for other types."""
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


def _after(node: Node) -> _Steps:
    step, bias = node.attribute("out_scale", 1.0), node.attribute("out_bias", 0.0)
    scale, last = np.ones(1, np.float32), node
    found = _constant_user(last.result, "Add")
    if found is not None and found[1].size == 1:
        last, bias = found[0], bias + float(found[1].reshape(-1)[0])
    found = _constant_user(last.result, "Mul")
    if found is not None and found[1].size == max(1, *found[1].shape, 1):
        last, scale = found[0], found[1].astype(np.float32)
    return _Steps(step, bias, scale, last)


def _constant_user(value: Value, op: str) -> tuple[Node, Array] | None:
    users = value.users
    if len(value.uses) != 1 or not is_standard(users[0], op):
        return None
    other = users[0].input(1) if users[0].input(0) is value else users[0].input(0)
    constant = array_of(other)
    return None if constant is None else (users[0], constant)


def _axis(scale: Array, rank: int) -> int:
    """The axis of a tensor along which a constant holds one number a channel."""
    return scale.shape.index(scale.size) + rank - scale.ndim


def _spec(table: Array, steps: _Steps) -> QuantizerSpec | Reject:
    low, count = steps.bias / steps.step, table.shape[1]
    rank = steps.last.result.rank
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
