"""Products of float rows with weights in blocks of few bits: which widths a target has, and networks to time them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from qir.constants import array_of
from qir.graph import Graph, Node
from qir.module import Module
from qir.ops import op_of
from qir.tensor import Tensor
from qir.types import DType, TensorType

if TYPE_CHECKING:
    from qir.backends.costs.target import Target

FLOAT_BITS = 32
BLOCK = 32
"""Size of a block where the target names none."""

_MICROSOFT, _OPSET, _IR = "com.microsoft", 21, 10


def weight_widths(target: Target) -> tuple[int, ...]:
    """Return widths of weights that a target multiplies by float activations, ascending; none on most targets."""
    pairs = target.operand_rules().legal_pairs("MatMul")
    return tuple(sorted(weight for data, weight in pairs if data == FLOAT_BITS and weight < FLOAT_BITS))


def block_size(target: Target) -> int:
    """Return elements of a weight that share a scale."""
    return target.quantize.block or BLOCK


def block_product(node: Node, bits: int, block: int, batch: int = 1) -> Module | None:
    """Return a network of one MatMulNBits of a layer's size, with codes that are all the same and accuracy level 4.

    Args:
        node: MatMul or Gemm.
        bits: width of a code: 2, 4 or 8.
        block: elements that share a scale.
        batch: size of an unknown first dimension.

    Returns:
        None where the layer does not multiply by one constant matrix, or its sizes are not known.
    """
    shape, weight = op_of(node).layer_shape(node, batch=batch), array_of(node.input(1))
    if shape is None or not shape.is_matrix_product or shape.copies != 1 or weight is None or weight.ndim != 2:
        return None
    length, channels, blocks = shape.in_channels, shape.out_channels, -(-shape.in_channels // block)
    graph = Graph("product")
    data = graph.add_input("x", TensorType(DType.FLOAT32, (shape.batch, length)))
    codes = graph.add_constant("codes", Tensor.of(np.full((channels, blocks, block * bits // 8), 0x99, np.uint8)))
    scales = graph.add_constant("scales", Tensor.of(np.full((channels, blocks), 0.01, np.float32)))
    attributes = {"K": length, "N": channels, "bits": bits, "block_size": block, "accuracy_level": 4}
    made = Node("MatMulNBits", (data, codes, scales), ("y",), domain=_MICROSOFT, name="layer", attributes=attributes)
    result = graph.insert(made).result
    result.type = TensorType(DType.FLOAT32, (shape.batch, channels))
    graph.set_outputs([result])
    return Module(graph, opsets={"": _OPSET, _MICROSOFT: 1}, ir_version=_IR)
