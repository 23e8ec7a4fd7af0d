"""Rules that raise QuantizeLinear, Clip and DequantizeLinear.

    QuantizeLinear → Clip            a quantizer, and QuantizeLinear again, whose codes are those of a grid
    grid keeper(QuantizeLinear(x))   QuantizeLinear(grid keeper(x))
    DequantizeLinear(QuantizeLinear(x on that grid))   x

What codes stand for follows from the QuantizeLinear that they come from, which moves down through the operators that
keep a grid until every reader meets it. Where a reader is not understood it stays, on the same codes.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial

import numpy as np

from qir.constants import require_array
from qir.graph import Node, Value
from qir.ops import entries, op_of
from qir.passes.analysis.affine import Reject
from qir.passes.analysis.constants import array_of, frozen, is_standard
from qir.passes.raising.grids import MIDDLE, CodeGrid, spec_of
from qir.passes.raising.state import RaiseState, base_name, element_of, grid_at
from qir.rewriting.engine import Match, Pattern, Plan, Rewriter, Rule, any_value, constant, either, op, through
from qir.tracing import quantizer_of
from qir.types import DType, TensorType, UnknownType, tensor_type

QUANTIZE, DEQUANTIZE = "QuantizeLinear", "DequantizeLinear"


def linear(name: str, operand: Pattern, *, label: str = "", only_use: bool = False) -> Pattern:
    """Return what one of these operators makes, of ONNX's set or ONNX Runtime's (16 and 4 bits before opset 21)."""
    domains = ("", "com.microsoft")
    found = (op(name, operand, constant(), ..., name=label, domain=each, only_use=only_use) for each in domains)
    return either(*found)


def _clip(codes: Pattern, *, only_use: bool = False) -> Pattern:
    return op("Clip", codes, ..., only_use=only_use)


WHOLE = linear(QUANTIZE, any_value("data"), label="quantize")
CLIPPED = _clip(
    through(partial(_clip, only_use=True), linear(QUANTIZE, any_value("data"), label="quantize", only_use=True))
)
CODES = linear(QUANTIZE, any_value("twin"), label="codes")


def qdq_rules(state: RaiseState) -> tuple[Rule, ...]:
    """Return the rules for quantizers and what stands between their two halves."""
    keepers = tuple(dict.fromkeys(e.name for e in entries().values() if e.can_keep_grid and not e.domain))
    return (
        Rule("quantize", either(CLIPPED, WHOLE), plan=partial(_quantize, state)),
        Rule("keep-grid", op(keepers, CODES, ...), plan=partial(_keep_grid, state)),
        Rule("pad-codes", op("Pad", CODES, any_value("pads"), ...), plan=partial(_pad, state)),
        Rule("dequantize-bias", linear(DEQUANTIZE, constant("codes")), plan=_bias),
        Rule("dequantize", linear(DEQUANTIZE, either(CODES, constant("codes"))), plan=partial(_dequantize, state)),
    )


def _quantize(state: RaiseState, match: Match) -> Reject | Plan:
    """Put a quantizer on the operand of QuantizeLinear, with the bounds of the Clips on codes between it and the root.

    Together they are a quantizer's own bounds, or those and an activation's (Relu as codes from the zero point on).
    """
    last, node, data = match.root, match.node("quantize"), match["data"]
    if last.result in state.codes:
        return Reject("its codes are those of a quantizer already", last)
    if _is_clipped(last.result):
        return Reject("a Clip follows on its codes", last)
    if node.attribute("block_size", 0) or len(node.results) != 1:
        return Reject("it quantizes in blocks", node)
    grid = grid_at(node, 1, 2, axis_of(node, data), element_of(node.result) if node.input(2) is None else None)
    found = grid if isinstance(grid, Reject) else _within(_between(node, last), grid)
    if isinstance(found, Reject):
        return found
    spec = spec_of(found.grid)
    if isinstance(spec, Reject):
        return spec

    def change(rewriter: Rewriter) -> None:
        bounded = _limited(data, found, rewriter, last)
        if not _lies_on(bounded, found.grid):
            made = state.quantizer(bounded, spec, base_name(node.name or data.name))
            bounded = rewriter.insert(made, before=last).result
        again = requantized(node, bounded)
        state.codes[again.result] = found.grid
        rewriter.replace(last, [again])

    return change


def _is_clipped(codes: Value) -> bool:
    uses = codes.uses
    return len(uses) == 1 and uses[0].index == 0 and is_standard(uses[0].node, "Clip")


def _between(first: Node, last: Node) -> list[Node]:
    """Return the Clips after a node up to another one, in order."""
    clips = []
    while last is not first:
        clips.append(last)
        maker = last.operand(0).producer
        if maker is None:
            break
        last = maker
    return clips[::-1]


@dataclass(frozen=True, eq=False)
class Clipped:
    """What the Clips on codes after a node say.

    Attributes:
        grid: a grid of a whole number of bits that holds the codes.
        low, high: smallest and largest code that is left.
    """

    grid: CodeGrid
    low: int
    high: int


def _within(clips: list[Node], grid: CodeGrid) -> Clipped | Reject:
    """Return what is left of a grid: of all grids that the bounds give, the smallest of a whole number of bits."""
    low, high, candidates = grid.low_code, grid.high_code, [grid]
    for clip in clips:
        bounds = [array_of(clip.input(index)) for index in (1, 2)]
        if any(b is None and clip.input(index) is not None for index, b in enumerate(bounds, 1)):
            return Reject("its bounds are not constant", clip)
        own = (
            grid.low_code if bounds[0] is None else int(bounds[0]),
            grid.high_code if bounds[1] is None else int(bounds[1]),
        )
        candidates.append(replace(grid, low_code=max(own[0], grid.low_code), high_code=min(own[1], grid.high_code)))
        low, high = max(low, own[0]), min(high, own[1])
    candidates.append(replace(grid, low_code=low, high_code=high))
    whole = next(found for found in reversed(candidates) if found is grid or not isinstance(spec_of(found), Reject))
    return Clipped(whole, low, high)


def _limited(data: Value, found: Clipped, rewriter: Rewriter, before: Node) -> Value:
    """Return the value whose codes stay inside the bounds: itself, or after a Relu or Clip on floats."""
    grid = found.grid
    if (found.low, found.high) == (grid.low_code, grid.high_code):
        return data
    if found.high == grid.high_code and grid.zero_point.size == 1 and found.low == grid.zero_point[0]:
        made = Node("Relu", (data,))
    else:
        edges = grid.values(np.asarray([found.low, found.high]))
        bounds = [before.scope.add_constant(f"{data.name}.bound", frozen(edge.reshape(()))) for edge in edges]
        made = Node("Clip", (data, *bounds))
    made.result.type = twin_type(data)
    return rewriter.insert(made, before=before).result


def _lies_on(data: Value, grid: CodeGrid) -> bool:
    """Return whether a value lies on a grid, or a part of it, already."""
    known = quantizer_of(data)
    if known is None or grid.axis is not None:
        return False
    had = known.grid()
    if not had.is_affine:
        return grid.holds(had)
    offset = int(had.zero_point.reshape(-1)[0]) - int(grid.zero_point.reshape(-1)[0])
    read = grid.moved(offset) if offset == -MIDDLE and grid.low_code >= 0 else grid
    same = np.array_equal(had.scale, read.scale) and np.array_equal(had.zero_point, read.zero_point)
    return same and read.low_code <= had.low_code and had.high_code <= read.high_code


def requantized(node: Node, twin: Value) -> Node:
    """Return a QuantizeLinear as `node` of another value."""
    return Node(node.op, (twin, *node.inputs[1:]), domain=node.domain, name=node.name, attributes=dict(node.attributes))


def _keep_grid(state: RaiseState, match: Match) -> Reject | Plan:
    """Run an operator that keeps its operand's grid on floats, and quantize what it makes."""
    node, grid = match.root, state.codes.get(match["codes"])
    if grid is None:
        return Reject("what its codes stand for is not known", match["codes"])
    if op_of(node).grid_operand(node) != 0 or len(node.results) != 1:
        return Reject("it does not keep the grid of its codes", node)
    if grid.axis is not None and op_of(node).is_movement:
        return Reject("its codes have one scale a channel, and it moves elements", node)
    return partial(_moved_down, state, match, grid, (match["twin"], *node.inputs[1:]))


def _moved_down(
    state: RaiseState, match: Match, grid: CodeGrid, operands: tuple[Value | None, ...], rewriter: Rewriter
) -> None:
    node = match.root
    made = Node(node.op, operands, domain=node.domain, name=node.name, attributes=dict(node.attributes))
    made.result.type = twin_type(node.result)
    again = requantized(match.node("codes"), made.result)
    state.codes[again.result] = grid
    rewriter.replace(node, [made, again])


def _pad(state: RaiseState, match: Match) -> Reject | Plan:
    """Fill with what the code stands for that a Pad of opset 11 or later fills in, 0 when it is left out."""
    node, grid = match.root, state.codes.get(match["codes"])
    if grid is None:
        return Reject("what its codes stand for is not known", match["codes"])
    code = np.zeros((), np.int64) if node.input(2) is None else array_of(node.input(2))
    if code is None or grid.axis is not None:
        return Reject("the value it pads with is not constant or not of one grid", node)

    def change(rewriter: Rewriter) -> None:
        value = node.scope.add_constant(f"{node.result.name}.value", frozen(grid.values(code).reshape(())))
        _moved_down(state, match, grid, (match["twin"], node.inputs[1], value, *node.inputs[3:]), rewriter)

    return change


def _dequantize(state: RaiseState, match: Match) -> Reject | Plan:
    """Take the float twin of the codes, or the floats of constant ones under a quantizer."""
    node, codes = match.root, match["codes"]
    if node.attribute("block_size", 0):
        return Reject("it dequantizes in blocks, and its codes or float32 scales are not constant", node)
    grid = grid_at(node, 1, 2, axis_of(node, codes), element_of(codes))
    twin = grid if isinstance(grid, Reject) else state.twin(codes, grid, node)
    return twin if isinstance(twin, Reject) else lambda rewriter: rewriter.replace(node, [], [twin(rewriter)])


def _bias(match: Match) -> Reject | Plan:
    """Write int32 codes, which no quantizer makes, as floats."""
    node, codes = match.root, require_array(match["codes"])
    scale, zero = array_of(node.input(1)), array_of(node.input(2))
    if codes.dtype != np.int32:
        return Reject(f"its codes are {codes.dtype}", node)
    if scale is None or (zero is not None and zero.any()):
        return Reject("its scale is not constant or its zero point is not 0", node)
    axis = node.attribute("axis", 1) % max(codes.ndim, 1)
    shape = () if scale.size == 1 else tuple(-1 if index == axis else 1 for index in range(codes.ndim))
    values = (codes * scale.astype(np.float64).reshape(shape)).astype(np.float32)

    def change(rewriter: Rewriter) -> None:
        made = node.scope.add_constant(base_name(match["codes"].name), frozen(values))
        rewriter.replace(node, [], [made])

    return change


def twin_type(value: Value) -> TensorType | UnknownType:
    """Return the type of a value's float twin."""
    return tensor_type(DType.FLOAT32, value.type.shape) if isinstance(value.type, TensorType) else UnknownType()


def axis_of(node: Node, value: Value | None) -> int | None:
    """Return the axis that a node names, counted from the first one where the rank is known."""
    axis = int(node.attribute("axis", 1))
    rank = None if value is None else value.rank
    return axis + rank if axis < 0 and rank is not None else axis
