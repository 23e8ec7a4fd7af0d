"""QONNX quantizers raised into fake-quant nodes, by patterns."""

from __future__ import annotations

from functools import partial

import numpy as np

from qir.graph import Graph, Node, Value
from qir.ops.families.qonnx import QONNX_DOMAINS
from qir.passes.analysis.constants import array_of
from qir.passes.raising.grids import CodeGrid, QuantizerSpec, bipolar_spec, spec_of
from qir.passes.raising.qonnx.multi_threshold import threshold_rules
from qir.passes.raising.qonnx.patterns import of_qonnx
from qir.passes.raising.state import RaiseState, base_name
from qir.rewriting.engine import Match, Plan, Reject, Rule, any_value, explain, number, op, rewrite


def raise_qonnx(graph: Graph, state: RaiseState) -> None:
    """Put fake-quant nodes in the place of QONNX quantizers and of what belongs to them; note those that stay."""
    stages = (*threshold_rules(state), *quant_rules(state))
    for rules in stages:
        rewrite(graph, rules)
    for node in graph:
        if node.domain in QONNX_DOMAINS:
            rule = next((rule for rules in stages for rule in rules if node.op in rule.pattern.roots), None)
            state.leave(node, f"{node.op} is not known" if rule is None else explain(rule, node).reason)


def quant_rules(state: RaiseState) -> tuple[tuple[Rule, ...], ...]:
    """Quant with a Clip that cuts its grid, then quantizers by themselves: a fake-quant node on their operand."""
    data, kinds = any_value("data"), ("Quant", "IntQuant", "BipolarQuant")
    cut = op("Clip", of_qonnx(kinds, data, only_use=True), number(name="low"), number(name="high"))
    return (
        (Rule("quant-cut-by-clip", cut, plan=partial(_cut, state)),),
        (Rule("quant", of_qonnx(kinds, data), plan=partial(_whole, state)),),
    )


def _cut(state: RaiseState, match: Match) -> Reject | Plan:
    grid = _grid(match.node("quantizer"))
    part = _part(grid, match.number("low"), match.number("high")) if isinstance(grid, CodeGrid) else None
    spec = Reject("its bounds give no grid of a whole width", match.root) if part is None else spec_of(part)
    return spec if isinstance(spec, Reject) else state.plan(match, spec, _name(match.node("quantizer"), match["data"]))


def _whole(state: RaiseState, match: Match) -> Reject | Plan:
    grid = _grid(match.root)
    spec = spec_of(grid) if isinstance(grid, CodeGrid) else grid
    return spec if isinstance(spec, Reject) else state.plan(match, spec, _name(match.root, match["data"]))


_BREVITAS = ((".weight_quant.", ".weight"), (".act_quant.", ".output"))


def _name(node: Node, data: Value) -> str:
    """Return the quantizer's name.

    The weight's, else that of the module in the scale's name (Brevitas), else the node's.
    """
    if array_of(data) is not None and data.name.endswith("weight"):
        return data.name
    scale = node.input(1)
    for part, ending in _BREVITAS:
        if scale is not None and part in scale.name:
            return scale.name.split(part, 1)[0] + ending
    return base_name(node.name) or f"{data.name}.quantizer"


def _part(grid: CodeGrid, low: float, high: float) -> CodeGrid | None:
    """Return the unsigned grid with a zero point that Clip leaves of a grid.

    None when its bounds give no whole width.
    """
    bounds = np.asarray([low, high], np.float32)
    codes = np.rint(bounds / grid.scale[0])
    if grid.scale.size != 1 or (codes.astype(np.float32) * grid.scale[0] != bounds).any():
        return None
    least, most = max(int(codes[0]), grid.low_code), min(int(codes[1]), grid.high_code)
    found = CodeGrid(grid.scale, np.array([-least]), None, 0, most - least)
    return found if least <= 0 <= most and not isinstance(found.width(), Reject) else None


def _grid(node: Node) -> CodeGrid | QuantizerSpec | Reject:
    """Return the grid; for codes -1 and +1, which are none, the fake-quant attributes."""
    scale = array_of(node.input(1))
    if scale is None:
        return Reject("its scale is not constant")
    axis = _channel_axis(scale, node)
    if isinstance(axis, Reject):
        return axis
    scales = scale.astype(np.float32).reshape(-1)
    if node.op == "BipolarQuant":
        return bipolar_spec(scales, axis)
    zero, width = array_of(node.input(2)), array_of(node.input(3))
    if zero is None or width is None or width.size != 1 or float(width.reshape(-1)[0]) % 1 or (zero % 1).any():
        return Reject("its zero point or bit width is not constant and whole")
    mode = str(node.attribute("rounding_mode", "ROUND")).upper()
    if mode not in {"ROUND", "HALF_EVEN"}:
        return Reject(f"it rounds by {mode}; fake-quant rounds half to even")
    bits, signed, narrow = (
        int(width.reshape(-1)[0]),
        bool(node.attribute("signed", 1)),
        bool(node.attribute("narrow", 0)),
    )
    if bits == 1 and signed:
        return bipolar_spec(scales, axis)
    high = (1 << (bits - signed)) - 1
    low = -high - (not narrow) if signed else 0
    zeros = np.broadcast_to(zero.astype(np.int64).reshape(-1), scales.shape)
    if not signed and narrow:
        return Reject("it is unsigned and narrow")
    return CodeGrid(scales, zeros, axis, low, high)


def _channel_axis(scale: np.ndarray, node: Node) -> int | Reject | None:
    if scale.size == 1:
        return None
    data = node.input(0)
    rank = None if data is None else data.rank
    long = [index for index, length in enumerate(scale.shape) if length > 1]
    if len(long) != 1 or rank is None:
        return Reject(f"its scale has shape {scale.shape}: one scale per tensor or channel is raised")
    return long[0] + rank - scale.ndim
