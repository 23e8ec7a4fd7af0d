"""Weights of n bits stored as n bit planes, unpacked by standard operators that ONNX Runtime folds when it loads.

A weight's codes are `low + Σ step·2^i·bit_i`; the bits of plane i lie eight to a byte, first element lowest. BitShift
to the left and back to the right isolates them, so operator set 13 suffices. At its default optimization ONNX Runtime
computes the codes once and fuses the layer as if they stood in the file.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from qir.backends.integer.reference import DEQUANTIZE
from qir.graph import Value
from qir.module import Module
from qir.passes.infrastructure.contract import Pass, PassContext
from qir.passes.lowering.parts.chain import Chain
from qir.tensor import Array, Tensor
from qir.types import DType

OVERHEAD_BYTES = 1500
"""What the unpacking nodes of one weight cost in the file; a smaller saving is not worth them."""


@dataclass(frozen=True)
class PackWeights(Pass):
    """Replace weight codes below 8 bits by bit planes and the nodes that unpack them; run it after `lower-qcdq`.

    Verified IR in, verified IR out; the network computes the same.
    """

    name: ClassVar[str] = "pack-weights"

    def run(self, module: Module, context: PassContext) -> bool:  # noqa: ARG002
        """Pack every weight whose file becomes smaller by it."""
        changed = False
        for node in module.graph.nodes:
            codes = node.operands[0] if node.op == DEQUANTIZE else None
            if codes is None or codes.constant is None or codes.constant.dtype not in (DType.INT8, DType.UINT8):
                continue
            low, step, bits = _width(codes.constant.numpy())
            if codes.constant.size * (8 - bits) // 8 > OVERHEAD_BYTES:
                chain = Chain(module.graph, node, codes.name)
                unpacked = _unpack(chain, codes.constant, low, step, bits)
                node.set_input(0, unpacked)
                if not codes.uses:
                    module.graph.remove_constant(codes)
                    unpacked.name = codes.name
                changed = True
        return changed


def _width(codes: Array) -> tuple[int, int, int]:
    """(lowest code, step, bits) of the narrowest grid that holds the codes; two codes alone take one bit."""
    low, high = int(codes.min()), int(codes.max())
    if ((codes == low) | (codes == high)).all():
        return low, max(high - low, 1), 1
    return low, 1, max((high - low).bit_length(), 1)


def _unpack(chain: Chain, codes: Tensor, low: int, step: int, bits: int) -> Value:
    """Return the value that holds the codes, of the constant's element type and shape."""
    count, shape = codes.size, codes.shape
    offsets = (codes.numpy().reshape(-1).astype(np.int64) - low) // step
    planes = np.packbits(((offsets >> np.arange(bits)[:, None]) & 1).astype(np.uint8), axis=1, bitorder="little")
    size = planes.shape[1]
    packed = chain.constant("planes", planes[:, :, None])
    left = chain.shared("unpack.left", np.arange(7, -1, -1, dtype=np.uint8))
    right = chain.shared("unpack.right", np.asarray(7, np.uint8))
    value = chain.node("BitShift", (packed, left), "left", (bits, size, 8), DType.UINT8, direction="LEFT")
    value = chain.node("BitShift", (value, right), "bits", (bits, size, 8), DType.UINT8, direction="RIGHT")
    value = chain.node("Cast", (value,), "integers", (bits, size, 8), DType.INT32, to=DType.INT32.onnx_code)
    weights = step * 2 ** np.arange(bits, dtype=np.int32)
    shared = chain.shared(f"unpack.weights{bits}.{step}", weights[:, None, None].astype(np.int32))
    value = chain.node("Mul", (value, shared), "weighted", (bits, size, 8), DType.INT32)
    axes = chain.shared("unpack.axes", np.zeros(1, np.int64))
    value = chain.node("ReduceSum", (value, axes), "sum", (size, 8), DType.INT32, keepdims=0)
    flat = chain.shared("unpack.flat", np.asarray([-1], np.int64))
    value = chain.node("Reshape", (value, flat), "flat", (size * 8,), DType.INT32)
    if count != size * 8:
        end = chain.shared(f"unpack.end{count}", np.asarray([count], np.int64))
        value = chain.node("Slice", (value, axes, end), "cut", (count,), DType.INT32)
    offset = chain.shared(f"unpack.low{low}", np.asarray(low, np.int32))
    value = chain.node("Add", (value, offset), "offset", (count,), DType.INT32)
    value = chain.node("Cast", (value,), "narrow", (count,), codes.dtype, to=codes.dtype.onnx_code)
    target = chain.constant("shape", np.asarray(shape, np.int64))
    return chain.node("Reshape", (value, target), "unpacked", shape, codes.dtype)
