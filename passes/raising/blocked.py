"""Weights with blocks of scales, raised.

DequantizeLinear with `block_size`, and ONNX Runtime's MatMulNBits and GatherBlockQuantized.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import numpy.typing as npt

from qir.fake_quant import FakeQuant
from qir.granularity import PerBlock
from qir.graph import Node, Value
from qir.packing import unpack_rows
from qir.passes.analysis.affine import Reject
from qir.passes.analysis.constants import array_of, frozen
from qir.passes.raising.grids import CodeGrid
from qir.passes.raising.qdq import twin_type
from qir.passes.raising.state import RaiseState, base_name, code_limits, element_of, weight_spec
from qir.quantizers.blocks import blocks_shape, from_rows, to_rows
from qir.tensor import Array


def raise_blocked_weight(node: Node, state: RaiseState) -> None:
    """DequantizeLinear of constant codes in blocks: a float constant under a quantizer with blocks."""
    source, codes, scale = node.input(0), array_of(node.input(0)), array_of(node.input(1))
    limits = code_limits(element_of(source))
    if source is None or codes is None or scale is None or limits is None or scale.dtype != np.float32:
        state.leave(node, "it dequantizes in blocks, and its codes or float32 scales are not constant")
        return
    zero = array_of(node.input(2))
    zeros = np.zeros(scale.shape, np.int64) if zero is None else zero.astype(np.int64)
    axis, block = node.attribute("axis", 1) % codes.ndim, int(node.attribute("block_size"))
    made = _weight(source, codes.astype(np.int64), (scale, zeros), (axis, block), limits, state, node)
    if isinstance(made, Reject):
        state.leave(node, made.reason)
        return
    node.result.replace_all_uses_with(made)


def raise_matmul_nbits(node: Node, state: RaiseState) -> None:
    """MatMulNBits: MatMul with a float weight under a quantizer with blocks."""
    packed, scale, data = array_of(node.input(1)), array_of(node.input(2)), node.input(0)
    if packed is None or scale is None or data is None or scale.dtype != np.float32 or node.input(4) is not None:
        state.leave(node, "its codes or float32 scales are not constant, or its rows are reordered")
        return
    rows, columns, bits, block = (int(node.attribute(name)) for name in ("K", "N", "bits", "block_size"))
    blocks = -(-rows // block)
    zero = array_of(node.input(3))
    if zero is None:
        zeros = np.full((columns, blocks), 1 << (bits - 1), np.int64)
    elif zero.dtype == np.uint8:
        zeros = unpack_rows(zero.reshape(columns, -1), bits)[:, :blocks].astype(np.int64)
    else:
        state.leave(node, "its zero points are not integers")
        return
    codes = unpack_rows(packed.reshape(columns, -1), bits)[:, :rows].astype(np.int64)
    shift = 1 << (bits - 1) if (zeros == 1 << (bits - 1)).all() else 0
    limits = (-shift, (1 << bits) - 1 - shift)
    grids = scale.reshape(columns, blocks).T, (zeros - shift).T
    weight = _weight(node.operand(1), (codes - shift).T, grids, (0, block), limits, state, node)
    if isinstance(weight, Reject):
        state.leave(node, weight.reason)
        return
    made = Node("MatMul", (data, weight), name=node.name)
    made.result.type = twin_type(node.result)
    last = state.graph.insert(made, before=node)
    if node.input(5) is not None:
        last = state.graph.insert(Node("Add", (made.result, node.input(5))), before=node)
        last.result.type = twin_type(node.result)
    node.result.replace_all_uses_with(last.result)


def raise_gather_blocks(node: Node, state: RaiseState) -> None:
    """GatherBlockQuantized: Gather from a float table under a quantizer with blocks."""
    source, data, scale = node.input(0), array_of(node.input(0)), array_of(node.input(2))
    limits = code_limits(element_of(source))
    if source is None or data is None or scale is None or limits is None or scale.dtype != np.float32:
        state.leave(node, "its codes or float32 scales are not constant")
        return
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
    table = _weight(source, codes - shift, (scale, zeros - shift), place, limits, state, node)
    if isinstance(table, Reject):
        state.leave(node, table.reason)
        return
    attributes = {"axis": int(node.attribute("gather_axis", 0))}
    made = state.graph.insert(
        Node("Gather", (table, node.input(1)), name=node.name, attributes=attributes), before=node
    )
    made.result.type = twin_type(node.result)
    node.result.replace_all_uses_with(made.result)


def _weight(
    source: Value,
    codes: npt.NDArray[np.int64],
    grids: tuple[Array, Array],
    place: tuple[int, int],
    limits: tuple[int, int],
    state: RaiseState,
    before: Node,
) -> Value | Reject:
    """Return the float constant for codes with a scale and a zero point a block, under its quantizer.

    Args:
        source: the constant that holds the codes, for names.
        codes: integers of the weight's shape.
        grids: float32 scales and int64 zero points, of the shape of the blocks.
        place: axis and size of a block.
        limits: smallest and largest code of their element type.
        state: what is known.
        before: node in front of which the quantizer stands.
    """
    axis, block = place
    expected = blocks_shape(codes.shape, axis, block)
    if any(np.shape(grid) != expected for grid in grids):
        return Reject(f"its scales have the shape {np.shape(grids[0])}, blocks of {block} have {expected}")
    rows = to_rows(codes, axis, block)
    scales, zeros = (np.ascontiguousarray(grid).reshape(-1) for grid in grids)
    rows, grid = _mirrored(rows, CodeGrid(scales, zeros, 0, *limits))
    name = base_name(source.name)
    label = name if name.endswith("weight") else f"{name}.weight"
    spec = weight_spec(grid, rows, state.policy.get(label, 0))
    if isinstance(spec, Reject):
        return spec
    values = from_rows(grid.values(rows), codes.shape, axis, block)
    constant = state.graph.add_constant(name, frozen(values))
    made = state.quantizer(constant, replace(spec, axis=axis), label)
    FakeQuant(made).granularity = PerBlock(axis, block)
    return state.graph.insert(made, before=before).result


def _mirrored(rows: npt.NDArray[np.int64], grid: CodeGrid) -> tuple[npt.NDArray[np.int64], CodeGrid]:
    """Return the same values with positive scales: ONNX Runtime's symmetric 4-bit quantizer writes negative ones."""
    negative, mirror = grid.scale < 0, grid.low_code + grid.high_code
    zeros = np.where(negative, mirror - grid.zero_point, grid.zero_point)
    return np.where(negative[:, None], mirror - rows, rows), replace(grid, scale=np.abs(grid.scale), zero_point=zeros)
