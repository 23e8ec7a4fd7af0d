"""QuantizeLinear, Clip and DequantizeLinear raised into fake-quant nodes."""

from __future__ import annotations

import numpy as np

from qir.fake_quant import parameters_of
from qir.graph import Node, Value
from qir.ops import op_of
from qir.passes.affine import Reject
from qir.passes.constants import array_of, frozen, is_standard
from qir.passes.raising.grids import Grid, spec_of
from qir.passes.raising.state import RaiseState, base_name, element_of, grid_at
from qir.tracing import quantizer_of
from qir.types import DType, TensorType, UnknownType, tensor_type


def raise_quantize(node: Node, state: RaiseState) -> None:
    """QuantizeLinear, with the Clip on codes that follows it: a fake-quant node on the operand."""
    if node.attribute("block_size", 0) or len(node.results) != 1:
        state.leave(node, "it quantizes in blocks")
        return
    data = node.input(0)
    grid = grid_at(node, 1, 2, _axis(node, data), element_of(node.result) if node.input(2) is None else None)
    if isinstance(grid, Reject) or data is None:
        state.leave(node, grid.reason if isinstance(grid, Reject) else "it has no operand")
        return
    results = [node.result]
    clip = _clip_behind(node)
    if clip is not None:
        bounds = [array_of(clip.input(index)) for index in (1, 2)]
        if any(b is None and v is not None for b, v in zip(bounds, (clip.input(1), clip.input(2)), strict=True)):
            state.leave(clip, "its bounds are not constant")
            return
        low, high = (None if b is None else int(b) for b in bounds)
        low = grid.low_code if low is None else max(low, grid.low_code)
        high = grid.high_code if high is None else min(high, grid.high_code)
        grid = Grid(grid.scale, grid.zero_point, grid.axis, low, high)
        results.append(clip.result)
    twin = on_grid(data, grid, state, base_name(node.name or data.name), node)
    if isinstance(twin, Reject):
        state.leave(node, twin.reason)
        return
    for value in results:
        state.twins[value] = (twin, grid)


def on_grid(data: Value, grid: Grid, state: RaiseState, name: str, after: Node) -> Value | Reject:
    """`data` on a grid: behind a new fake-quant node, or itself when it lies on the grid, or a part of it, already."""
    spec = spec_of(grid)
    if isinstance(spec, Reject):
        return spec
    known = quantizer_of(data)
    if known is not None:
        had = parameters_of(known)
        same = np.array_equal(had.scale, grid.scale) and np.array_equal(had.zero_point, grid.zero_point)
        inside = grid.low_code <= had.low_code and had.high_code <= grid.high_code
        if same and inside and grid.axis is None and had.is_affine:
            return data
    made = state.quantizer(data, spec, name)
    return state.graph.insert(made, after=after).result


def raise_dequantize(node: Node, state: RaiseState) -> None:
    """DequantizeLinear: the float twin of its codes, or a constant."""
    codes = node.input(0)
    grid = grid_at(node, 1, 2, _axis(node, codes), element_of(codes))
    values = array_of(codes)
    if values is not None and values.dtype == np.int32:
        _raise_bias(node, state)
        return
    if node.attribute("block_size", 0):
        state.leave(node, "it dequantizes in blocks")
        return
    twin = grid if isinstance(grid, Reject) else state.twin(codes, grid)
    if isinstance(twin, Reject):
        state.leave(node, twin.reason)
        return
    node.result.replace_all_uses_with(twin)


def _raise_bias(node: Node, state: RaiseState) -> None:
    codes, scale, zero = (array_of(node.input(index)) for index in range(3))
    if codes is None or scale is None or (zero is not None and zero.any()):
        state.leave(node, "its scale is not constant or its zero point is not 0")
        return
    axis = node.attribute("axis", 1)
    shape = [-1 if index == axis % max(codes.ndim, 1) else 1 for index in range(codes.ndim)]
    factor = scale.astype(np.float64) if scale.size == 1 else scale.astype(np.float64).reshape(shape)
    source = node.input(0)
    name = base_name(source.name if source is not None else node.result.name)
    values = (codes * factor.reshape(()) if scale.size == 1 else codes * factor).astype(np.float32)
    made = state.graph.add_constant(state.graph.clock.unique_name(name), frozen(values))
    node.result.replace_all_uses_with(made)


def raise_grid_keeper(node: Node, state: RaiseState) -> None:
    """An operator that keeps its operand's grid, or Pad, run on codes: the same operator on the float twin."""
    index = 0 if is_standard(node, "Pad") else op_of(node).grid_operand(node)
    source = None if index is None else node.input(index)
    if index is None or source is None or source not in state.twins or node.result in state.twins:
        return
    twin, grid = state.twins[source]
    inputs = list(node.inputs)
    inputs[index] = twin
    if is_standard(node, "Pad"):
        value = _pad_value(node, grid, state)
        if value is None:
            state.leave(node, "the value it pads with is not constant or not of one grid")
            return
        inputs = [twin, inputs[1], value, *inputs[3:]]
    made = Node(node.op, inputs, domain=node.domain, name=node.name, attributes=dict(node.attributes))
    made.result.type = float_type(node.result)
    state.graph.insert(made, after=node)
    state.twins[node.result] = (made.result, grid)


def _pad_value(node: Node, grid: Grid, state: RaiseState) -> Value | None:
    """What the code stands for that a Pad of opset 11 or later fills in, 0 when it is left out."""
    code = np.zeros((), np.int64) if node.input(2) is None else array_of(node.input(2))
    if code is None or grid.axis is not None or len(node.inputs) < 2:
        return None
    return state.graph.add_constant(f"{node.result.name}.value", frozen(grid.values(code).reshape(())))


def float_type(value: Value) -> TensorType | UnknownType:
    """The type of a value's float twin."""
    return tensor_type(DType.FLOAT32, value.type.shape) if isinstance(value.type, TensorType) else UnknownType()


def _axis(node: Node, value: Value | None) -> int | None:
    axis = int(node.attribute("axis", 1))
    rank = value.type.rank if value is not None and isinstance(value.type, TensorType) else None
    return axis + rank if axis < 0 and rank is not None else axis


def _clip_behind(node: Node) -> Node | None:
    uses = node.result.uses
    if len(uses) == 1 and is_standard(uses[0].node, "Clip") and uses[0].index == 0:
        return uses[0].node
    return None
