"""Rules that raise weights with blocks of scales.

DequantizeLinear with `block_size`, and ONNX Runtime's MatMulNBits and GatherBlockQuantized.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import numpy as np
import numpy.typing as npt

from qir.constants import require_array
from qir.fake_quant import FakeQuant
from qir.granularity import PerBlock
from qir.graph import Node, Value
from qir.packing import unpack_rows
from qir.passes.analysis.affine import Reject
from qir.passes.analysis.constants import array_of, frozen
from qir.passes.raising.grids import CodeGrid
from qir.passes.raising.operators import MICROSOFT
from qir.passes.raising.qdq import DEQUANTIZE, linear, twin_type
from qir.passes.raising.state import RaiseState, Twin, base_name, code_limits, element_of, weight_spec
from qir.quantizers.blocks import blocks_shape, from_rows, to_rows
from qir.rewriting.engine import Match, Plan, Rewriter, Rule, any_value, constant, op
from qir.tensor import Array


def blocked_rules(state: RaiseState) -> tuple[Rule, ...]:
    """Return the rules for weights in blocks: a float constant under a quantizer with blocks."""
    data, codes, scales = any_value("data"), constant("codes"), constant("scales")
    return (
        Rule("dequantize-blocks", linear(DEQUANTIZE, codes), plan=partial(_dequantize, state)),
        Rule(
            "matmul-nbits", op("MatMulNBits", data, codes, scales, ..., domain=MICROSOFT), plan=partial(_nbits, state)
        ),
        Rule(
            "gather-blocks",
            op("GatherBlockQuantized", codes, data, scales, ..., domain=MICROSOFT),
            plan=partial(_gather, state),
        ),
    )


def _dequantize(state: RaiseState, match: Match) -> Reject | Plan:
    """DequantizeLinear of constant codes in blocks."""
    node, codes = match.root, require_array(match["codes"])
    scale, limits, block = (
        array_of(node.input(1)),
        code_limits(element_of(node.input(0))),
        node.attribute("block_size", 0),
    )
    if not block:
        return Reject("it dequantizes by tensor or channel", node)
    if scale is None or limits is None or scale.dtype != np.float32:
        return Reject("it dequantizes in blocks, and its codes or float32 scales are not constant", node)
    zero = array_of(node.input(2))
    zeros = np.zeros(scale.shape, np.int64) if zero is None else zero.astype(np.int64)
    axis = node.attribute("axis", 1) % codes.ndim
    weight = _weight(state, match, codes.astype(np.int64), (scale, zeros), (axis, int(block)), limits)
    return weight if isinstance(weight, Reject) else lambda rewriter: rewriter.replace(node, [], [weight(rewriter)])


def _nbits(state: RaiseState, match: Match) -> Reject | Plan:
    """MatMulNBits: MatMul with a float weight, and Add with its bias."""
    node, packed, scale = match.root, require_array(match["codes"]), require_array(match["scales"])
    if scale.dtype != np.float32 or node.input(4) is not None:
        return Reject("its scales are not float32, or its rows are reordered", node)
    rows, columns, bits, block = (int(node.attribute(name)) for name in ("K", "N", "bits", "block_size"))
    blocks = -(-rows // block)
    zero = array_of(node.input(3))
    if zero is None:
        zeros = np.full((columns, blocks), 1 << (bits - 1), np.int64)
    elif zero.dtype == np.uint8:
        zeros = unpack_rows(zero.reshape(columns, -1), bits)[:, :blocks].astype(np.int64)
    else:
        return Reject("its zero points are not integers", node)
    codes = unpack_rows(packed.reshape(columns, -1), bits)[:, :rows].astype(np.int64)
    shift = 1 << (bits - 1) if (zeros == 1 << (bits - 1)).all() else 0
    limits = (-shift, (1 << bits) - 1 - shift)
    grids = scale.reshape(columns, blocks).T, (zeros - shift).T
    weight = _weight(state, match, (codes - shift).T, grids, (0, block), limits)
    if isinstance(weight, Reject):
        return weight

    def change(rewriter: Rewriter) -> None:
        made = [Node("MatMul", (match["data"], weight(rewriter)), name=node.name)]
        if node.input(5) is not None:
            made[0].result.type = twin_type(node.result)
            made.append(Node("Add", (made[0].result, node.input(5)), name=f"{node.label}.bias"))
        rewriter.replace(node, made)

    return change


def _gather(state: RaiseState, match: Match) -> Reject | Plan:
    """GatherBlockQuantized: Gather from a float table."""
    node, data, scale = match.root, require_array(match["codes"]), require_array(match["scales"])
    limits = code_limits(element_of(node.input(0)))
    if limits is None or scale.dtype != np.float32:
        return Reject("its codes have no integer type, or its scales are not float32", node)
    zero, bits = array_of(node.input(3)), int(node.attribute("bits", 4))
    codes, shift = data.astype(np.int64), 0
    zeros = np.zeros(scale.shape, np.int64) if zero is None else zero.astype(np.int64)
    if data.dtype == np.uint8:
        codes = unpack_rows(data, bits).astype(np.int64)
        middle = 1 << (bits - 1)
        zeros = (
            np.full(scale.shape, middle)
            if zero is None
            else unpack_rows(zero, bits)[..., : scale.shape[-1]].astype(np.int64)
        )
        shift = middle if (zeros == middle).all() else 0
        limits = (-shift, (1 << bits) - 1 - shift)
    place = node.attribute("quantize_axis", 1) % codes.ndim, int(node.attribute("block_size", 128))
    table = _weight(state, match, codes - shift, (scale, zeros - shift), place, limits)
    if isinstance(table, Reject):
        return table

    def change(rewriter: Rewriter) -> None:
        attributes = {"axis": int(node.attribute("gather_axis", 0))}
        made = Node("Gather", (table(rewriter), match["data"]), name=node.name, attributes=attributes)
        rewriter.replace(node, [made])

    return change


def _weight(
    state: RaiseState,
    match: Match,
    codes: npt.NDArray[np.int64],
    grids: tuple[Array, Array],
    place: tuple[int, int],
    limits: tuple[int, int],
) -> Twin | Reject:
    """Return what makes the float constant for codes with a scale and a zero point a block, under its quantizer.

    Args:
        state: what the rules share.
        match: the root reads the constant `codes`, which names the weight.
        codes: integers of the weight's shape.
        grids: float32 scales and int64 zero points, of the shape of the blocks.
        place: axis and size of a block.
        limits: smallest and largest code of their element type.
    """
    axis, block = place
    expected = blocks_shape(codes.shape, axis, block)
    if any(np.shape(grid) != expected for grid in grids):
        return Reject(f"its scales have the shape {np.shape(grids[0])}, blocks of {block} have {expected}", match.root)
    rows = to_rows(codes, axis, block)
    scales, zeros = (np.ascontiguousarray(grid).reshape(-1) for grid in grids)
    rows, grid = _mirrored(rows, CodeGrid(scales, zeros, 0, *limits))
    name = base_name(match["codes"].name)
    label = name if name.endswith("weight") else f"{name}.weight"
    spec = weight_spec(grid, rows, state.policy.get(label, 0))
    if isinstance(spec, Reject):
        return spec

    def make(rewriter: Rewriter) -> Value:
        values = from_rows(grid.values(rows), codes.shape, axis, block)
        constant = match.root.scope.add_constant(name, frozen(values))
        made = state.quantizer(constant, replace(spec, axis=axis), label)
        FakeQuant(made).granularity = PerBlock(axis, block)
        return rewriter.insert(made, before=match.root).result

    return make


def _mirrored(rows: npt.NDArray[np.int64], grid: CodeGrid) -> tuple[npt.NDArray[np.int64], CodeGrid]:
    """Return the same values with positive scales: ONNX Runtime's symmetric 4-bit quantizer writes negative ones."""
    negative, mirror = grid.scale < 0, grid.low_code + grid.high_code
    zeros = np.where(negative, mirror - grid.zero_point, grid.zero_point)
    return np.where(negative[:, None], mirror - rows, rows), replace(grid, scale=np.abs(grid.scale), zero_point=zeros)
