"""Weights of n bits stored as n bit planes, unpacked by standard operators that ONNX Runtime folds when it loads.

A weight's codes are `low + Σ step·2^i·bit_i`; the bits of plane i lie eight to a byte, first element lowest. BitShift
to the left and back to the right isolates them, so operator set 13 suffices. At its default optimization ONNX Runtime
computes the codes once and fuses the layer as if they stood in the file.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from qir.attributes import Attribute
from qir.backends.integer_reference import DEQUANTIZE
from qir.graph import Graph, Node, Value
from qir.module import Module
from qir.passes.manager import Pass, PassContext
from qir.tensor import Array, Tensor
from qir.types import DType, tensor_type

OVERHEAD_BYTES = 1500
"""What the unpacking nodes of one weight cost in the file; a smaller saving is not worth them."""


@dataclass(frozen=True)
class PackWeights(Pass):
    """Replace int8 weight codes below 8 bits by bit planes and the nodes that unpack them; run it behind `lower-qcdq`.

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
                node.set_input(0, _Unpacking(module.graph, node, codes).build(low, step, bits))
                if not codes.uses:
                    module.graph.remove_constant(codes)
                changed = True
        return changed


def _width(codes: Array) -> tuple[int, int, int]:
    """(lowest code, step, bits) of the narrowest grid that holds the codes; -1 and +1 alone take one bit."""
    if (np.abs(codes) == 1).all():
        return -1, 2, 1
    low, high = int(codes.min()), int(codes.max())
    return low, 1, max((high - low).bit_length(), 1)


class _Unpacking:
    """Nodes in front of a DequantizeLinear that rebuild its codes."""

    def __init__(self, graph: Graph, node: Node, codes: Value) -> None:
        assert codes.constant is not None  # noqa: S101 - checked by the caller
        self.graph, self.before, self.name = graph, node, codes.name
        self.codes, self.dtype = codes.constant.numpy(), codes.constant.dtype

    def build(self, low: int, step: int, bits: int) -> Value:
        """The value that holds the codes, of the constant's element type and shape."""
        count, shape = self.codes.size, self.codes.shape
        offsets = (self.codes.reshape(-1).astype(np.int64) - low) // step
        planes = np.packbits(((offsets >> np.arange(bits)[:, None]) & 1).astype(np.uint8), axis=1, bitorder="little")
        size = planes.shape[1]
        packed = self._constant("planes", planes[:, :, None])
        left = self._shared("left", np.arange(7, -1, -1, dtype=np.uint8))
        right = self._shared("right", np.asarray(7, np.uint8))
        value = self._node("BitShift", (packed, left), "left", DType.UINT8, (bits, size, 8), direction="LEFT")
        value = self._node("BitShift", (value, right), "bits", DType.UINT8, (bits, size, 8), direction="RIGHT")
        value = self._node("Cast", (value,), "integers", DType.INT32, (bits, size, 8), to=DType.INT32.onnx_code)
        weights = step * 2 ** np.arange(bits, dtype=np.int32)
        shared = self._shared(f"weights{bits}.{step}", weights[:, None, None].astype(np.int32))
        value = self._node("Mul", (value, shared), "weighted", DType.INT32, (bits, size, 8))
        axes = self._shared("axes", np.zeros(1, np.int64))
        value = self._node("ReduceSum", (value, axes), "sum", DType.INT32, (size, 8), keepdims=0)
        flat = self._shared("flat", np.asarray([-1], np.int64))
        value = self._node("Reshape", (value, flat), "flat", DType.INT32, (size * 8,))
        if count != size * 8:
            end = self._shared(f"end{count}", np.asarray([count], np.int64))
            value = self._node("Slice", (value, axes, end), "cut", DType.INT32, (count,))
        offset = self._shared(f"low{low}", np.asarray(low, np.int32))
        value = self._node("Add", (value, offset), "offset", DType.INT32, (count,))
        value = self._node("Cast", (value,), "narrow", self.dtype, (count,), to=self.dtype.onnx_code)
        target = self._constant("shape", np.asarray(shape, np.int64))
        return self._node("Reshape", (value, target), "unpacked", self.dtype, shape)

    def _constant(self, label: str, array: Array) -> Value:
        return self.graph.add_constant(f"{self.name}.{label}", Tensor.of(array))

    def _shared(self, label: str, array: Array) -> Value:
        name = f"unpack.{label}"
        for value in self.graph.constants:
            if value.name == name:
                return value
        return self.graph.add_constant(name, Tensor.of(array))

    def _node(
        self,
        op: str,
        inputs: tuple[Value, ...],
        label: str,
        dtype: DType,
        shape: tuple[int, ...],
        **attributes: Attribute | int | str,
    ) -> Value:
        name = f"{self.name}.{label}"
        made = self.graph.insert(
            Node(op, inputs, (f"{name}.value",), name=name, attributes=attributes), before=self.before
        )
        made.result.type = tensor_type(dtype, shape)
        return made.result
