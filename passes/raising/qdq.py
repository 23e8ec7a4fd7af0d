"""QuantizeLinear, Clip and DequantizeLinear raised into fake-quant nodes."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from qir.graph import Node, Value
from qir.ops import op_of
from qir.passes.analysis.affine import Reject
from qir.passes.analysis.constants import array_of, frozen, is_standard
from qir.passes.raising.grids import MIDDLE, CodeGrid, spec_of
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
    found = clips_after(node, grid, state)
    if found is None:
        return
    bounded = limited(data, found, state, node)
    after = node if bounded is data or bounded.producer is None else bounded.producer
    twin = put_on_grid(bounded, found.grid, state, base_name(node.name or data.name), after)
    if isinstance(twin, Reject):
        state.leave(node, twin.reason)
        return
    for value in found.results:
        state.twins[value] = (twin, found.grid)


@dataclass(frozen=True, eq=False)
class Clipped:
    """What the Clips on codes after a node say.

    Attributes:
        grid: a grid of a whole number of bits that holds the codes.
        results: values that lie on it.
        low, high: smallest and largest code that is left.
    """

    grid: CodeGrid
    results: tuple[Value, ...]
    low: int
    high: int


def clips_after(node: Node, grid: CodeGrid, state: RaiseState) -> Clipped | None:
    """Return the Clips on codes that follow a node; None where one is left.

    Together they are a quantizer's own bounds, or those and an activation's (Relu as codes from the zero point on).
    """
    results, low, high = [node.result], grid.low_code, grid.high_code
    candidates = [grid]
    while (clip := _clip_after(results[-1])) is not None:
        bounds = [array_of(clip.input(index)) for index in (1, 2)]
        if any(b is None and v is not None for b, v in zip(bounds, (clip.input(1), clip.input(2)), strict=True)):
            state.leave(clip, "its bounds are not constant")
            return None
        own = (
            grid.low_code if bounds[0] is None else int(bounds[0]),
            grid.high_code if bounds[1] is None else int(bounds[1]),
        )
        candidates.append(replace(grid, low_code=max(own[0], grid.low_code), high_code=min(own[1], grid.high_code)))
        low, high = max(low, own[0]), min(high, own[1])
        results.append(clip.result)
    candidates.append(replace(grid, low_code=low, high_code=high))
    whole = next(found for found in reversed(candidates) if found is grid or not isinstance(spec_of(found), Reject))
    return Clipped(whole, tuple(results), low, high)


def limited(data: Value, found: Clipped, state: RaiseState, after: Node) -> Value:
    """Return the value whose codes stay inside the bounds: itself, or after a Relu or Clip on floats."""
    grid = found.grid
    if (found.low, found.high) == (grid.low_code, grid.high_code):
        return data
    if found.high == grid.high_code and grid.zero_point.size == 1 and found.low == grid.zero_point[0]:
        made = Node("Relu", (data,))
    else:
        edges = grid.values(np.asarray([found.low, found.high]))
        bounds = [state.graph.add_constant(f"{data.name}.bound", frozen(edge.reshape(()))) for edge in edges]
        made = Node("Clip", (data, *bounds))
    made.result.type = twin_type(data)
    return state.graph.insert(made, after=after).result


def put_on_grid(data: Value, grid: CodeGrid, state: RaiseState, name: str, after: Node) -> Value | Reject:
    """Return `data` on a grid.

    After a new fake-quant node, or itself when it lies on the grid, or a part of it, already.
    """
    spec = spec_of(grid)
    if isinstance(spec, Reject):
        return spec
    known = quantizer_of(data)
    if known is not None:
        had = known.grid()
        offset = int(had.zero_point.reshape(-1)[0]) - int(grid.zero_point.reshape(-1)[0])
        read = grid.moved(offset) if offset == -MIDDLE and grid.low_code >= 0 else grid
        same = np.array_equal(had.scale, read.scale) and np.array_equal(had.zero_point, read.zero_point)
        inside = read.low_code <= had.low_code and had.high_code <= read.high_code
        if grid.axis is None and ((same and inside and had.is_affine) or (not had.is_affine and grid.holds(had))):
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
    made = state.graph.add_constant(name, frozen(values))
    node.result.replace_all_uses_with(made)


def raise_grid_keeper(node: Node, state: RaiseState) -> None:
    """Run an operator that keeps its operand's grid, or Pad, on the float twin in place of codes."""
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
    made.result.type = twin_type(node.result)
    state.graph.insert(made, after=node)
    state.twins[node.result] = (made.result, grid)


def _pad_value(node: Node, grid: CodeGrid, state: RaiseState) -> Value | None:
    """Return what the code stands for that a Pad of opset 11 or later fills in, 0 when it is left out."""
    code = np.zeros((), np.int64) if node.input(2) is None else array_of(node.input(2))
    if code is None or grid.axis is not None or len(node.inputs) < 2:
        return None
    return state.graph.add_constant(f"{node.result.name}.value", frozen(grid.values(code).reshape(())))


def twin_type(value: Value) -> TensorType | UnknownType:
    """Return the type of a value's float twin."""
    return tensor_type(DType.FLOAT32, value.type.shape) if isinstance(value.type, TensorType) else UnknownType()


def _axis(node: Node, value: Value | None) -> int | None:
    axis = int(node.attribute("axis", 1))
    rank = None if value is None else value.rank
    return axis + rank if axis < 0 and rank is not None else axis


def _clip_after(value: Value) -> Node | None:
    uses = value.uses
    if len(uses) == 1 and is_standard(uses[0].node, "Clip") and uses[0].index == 0:
        return uses[0].node
    return None
