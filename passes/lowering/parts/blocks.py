"""Weights with blocks of scales in standard operators.

From operator set 21 on DequantizeLinear takes the blocks itself (`block_size`). Before, the codes lie as rows, one a
block, are dequantized with a scale a row, and are brought to the weight's shape by Reshape, Transpose and Slice: the
same products, exactly.
"""

from __future__ import annotations

import numpy as np

from qir.attributes import Attribute
from qir.granularity import PerBlock
from qir.graph import Value
from qir.passes.analysis.arithmetic.codes import Codes
from qir.passes.lowering.parts.chain import Chain
from qir.quantizers.blocks import blocks_shape, to_rows
from qir.types import DType

NATIVE_OPSET = 21
"""First operator set whose DequantizeLinear has `block_size`."""


_WIDENED = {DType.INT2: DType.INT4, DType.UINT2: DType.UINT4}


def fused_container(dtype: DType, shape: tuple[int, ...]) -> DType:
    """Return the element type in which ONNX Runtime multiplies a matrix [length, channels] rightly.

    Version 1.31.1 makes MatMulNBits of codes of 2 bits and packs them wrongly where the channels do not fill whole
    bytes: errors of the size of the result, in every length, found by comparing. In 4 bits the same codes are right.
    """
    fills = len(shape) != 2 or shape[1] * dtype.bits % 8 == 0
    return dtype if fills else _WIDENED.get(dtype, dtype)


def dequantize_blocks(chain: Chain, name: str, granularity: PerBlock, codes: Codes, dtype: DType, opset: int) -> Value:
    """Return the float weight from its codes.

    Args:
        chain: where the nodes go.
        name: the quantizer's.
        granularity: the blocks.
        codes: the weight's codes, with one scale a block.
        dtype: element type of the codes.
        opset: version of ONNX's operator set.
    """
    shape, axis, block = codes.values.shape, granularity.axis, granularity.size
    counts, result = blocks_shape(shape, axis, block), f"{name}.dequantized"
    if opset >= NATIVE_OPSET:
        dtype = fused_container(dtype, shape)
        operands = (
            chain.constant("codes", codes.values, dtype),
            chain.constant("scale", codes.scale.reshape(counts)),
            chain.constant("zero_point", codes.zero_point.reshape(counts), dtype),
        )
        return chain.node("DequantizeLinear", operands, "dequantize", shape, result=result, axis=axis, block_size=block)
    rows = to_rows(codes.values, axis, block)
    operands = (
        chain.constant("codes", rows, dtype),
        chain.constant("scale", codes.scale),
        chain.constant("zero_point", codes.zero_point, dtype),
    )
    value = chain.node("DequantizeLinear", operands, "dequantize", rows.shape, axis=0)
    parted = (*counts, block)
    value = chain.node("Reshape", (value, chain.constant("parted", np.asarray(parted, np.int64))), "parts", parted)
    order = (*range(axis + 1), len(counts), *range(axis + 1, len(counts)))
    moved = tuple(parted[index] for index in order)
    value = chain.node("Transpose", (value,), "moved", moved, perm=Attribute.of(order))
    padded = (*shape[:axis], counts[axis] * block, *shape[axis + 1 :])
    cut = padded != shape
    whole = chain.constant("whole", np.asarray(padded, np.int64))
    value = chain.node("Reshape", (value, whole), "whole.back", padded, result="" if cut else result)
    if not cut:
        return value
    limits = [
        chain.constant(label, np.asarray([number], np.int64))
        for label, number in (("start", 0), ("end", shape[axis]), ("axis", axis))
    ]
    return chain.node("Slice", (value, *limits), "cut", shape, result=result)
