"""QONNX Quant and BipolarQuant raised into fake-quant nodes."""

from __future__ import annotations

import numpy as np

from qir.graph import Node, Value
from qir.passes.analysis.affine import Reject
from qir.passes.analysis.constants import array_of, is_standard
from qir.passes.raising.grids import CodeGrid, QuantizerSpec, bipolar_spec, spec_of
from qir.passes.raising.qonnx.multi_threshold import raise_multi_threshold
from qir.passes.raising.state import RaiseState, base_name


def raise_qonnx(node: Node, state: RaiseState) -> None:
    """A QONNX quantizer, with the Clip that cuts its grid: a fake-quant node on its operand."""
    if node.op == "MultiThreshold":
        raise_multi_threshold(node, state)
        return
    data, last = node.input(0), node
    grid = _grid(node)
    if isinstance(grid, CodeGrid):
        clip = _clip_after(node)
        part = None if clip is None else _part(grid, clip)
        spec = spec_of(grid if part is None else part)
        last = node if part is None or clip is None else clip
    else:
        spec = grid
    if isinstance(spec, Reject) or data is None:
        state.leave(node, spec.reason if isinstance(spec, Reject) else "it has no operand")
        return
    made = state.quantizer(data, spec, _name(node, data))
    state.graph.insert(made, after=last)
    last.result.replace_all_uses_with(made.result)


_BREVITAS = ((".weight_quant.", ".weight"), (".act_quant.", ".output"))


def _name(node: Node, data: Value) -> str:
    """The quantizer's name: the weight's, else that of the module in the scale's name (Brevitas), else the node's."""
    if array_of(data) is not None and data.name.endswith("weight"):
        return data.name
    scale = node.input(1)
    for part, ending in _BREVITAS:
        if scale is not None and part in scale.name:
            return scale.name.split(part, 1)[0] + ending
    return base_name(node.name) or f"{data.name}.quantizer"


def _clip_after(node: Node) -> Node | None:
    uses = node.result.uses
    return uses[0].node if len(uses) == 1 and uses[0].index == 0 and is_standard(uses[0].node, "Clip") else None


def _part(grid: CodeGrid, clip: Node) -> CodeGrid | None:
    """The unsigned grid with a zero point that Clip leaves of a grid; None when its bounds give no whole width."""
    bounds = [array_of(clip.input(index)) for index in (1, 2)]
    if grid.scale.size != 1 or any(bound is None or bound.size != 1 for bound in bounds):
        return None
    codes = [np.rint(bound.reshape(()) / grid.scale[0]) for bound in bounds if bound is not None]
    if any(np.float32(c) * grid.scale[0] != b for c, b in zip(codes, bounds, strict=True)):
        return None
    low, high = max(int(codes[0]), grid.low_code), min(int(codes[1]), grid.high_code)
    found = CodeGrid(grid.scale, np.array([-low]), None, 0, high - low)
    return found if low <= 0 <= high and not isinstance(found.width(), Reject) else None


def _grid(node: Node) -> CodeGrid | QuantizerSpec | Reject:
    """The grid; for codes -1 and +1, which are none, the fake-quant attributes."""
    if node.op not in {"Quant", "IntQuant", "BipolarQuant"}:
        return Reject(f"{node.op} is not known")
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
