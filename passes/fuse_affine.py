"""Constants added to or multiplied with a layer's result go into the layer; MatMul and Add become Gemm."""

from __future__ import annotations

from qir.graph import Node
from qir.passes.affine import Affine, Reject, elementwise_affine
from qir.passes.constants import array_of, erase, replace
from qir.passes.layers import MatMulLayer, layer_at, layer_producing
from qir.passes.linear_layer import PREACTIVATION, rank_of
from qir.passes.rules import Rule


def fuse_affine(node: Node, opset: int) -> bool:
    """Conv, ConvTranspose, Gemm or MatMul, then Add, Sub, Mul or Div by one constant a channel: into the layer."""
    del opset
    for data in node.operands:
        if len(data.uses) != 1 or data.producer is None or data.producer.graph is not node.graph:
            continue
        layer = layer_producing(data)
        if isinstance(layer, Reject):
            continue
        affine = elementwise_affine(node, data, layer.axis, layer.out_channels, layer.rank)
        edit = affine if isinstance(affine, Reject) else layer.after(affine)
        if isinstance(edit, Reject) or isinstance(affine, Reject):
            continue
        edit.apply()
        _follow(layer.node, affine)
        left = node.input(0)
        result = left if left is not None and array_of(left) is None else node.input(1)
        assert result is not None  # noqa: S101 - one operand is the layer's result
        replace(node, result)
        return True
    return False


def _follow(layer: Node, affine: Affine) -> None:
    known = layer.meta.get(PREACTIVATION)
    if known is not None:
        layer.meta[PREACTIVATION] = (known[0] * affine.scale + affine.shift, known[1] * abs(affine.scale))


def matmul_to_gemm(node: Node, opset: int) -> bool:
    """MatMul of a matrix by a constant matrix, then Add of a constant vector: Gemm."""
    layer = layer_at(node)
    if opset < 7 or not isinstance(layer, MatMulLayer) or layer.add is None or rank_of(node.input(0)) != 2:
        return False
    add, graph = layer.add, node.graph
    bias = add.input(0) if array_of(add.input(0)) is not None else add.input(1)
    values = array_of(bias)
    if graph is None or values is None or values.size != layer.out_channels:
        return False
    gemm = Node("Gemm", (node.input(0), node.input(1), bias), name=node.name)
    gemm.result.type = add.result.type
    graph.insert(gemm, after=node)
    add.result.replace_all_uses_with(gemm.result)
    erase(add)
    erase(node)
    return True


RULES = (
    Rule("fuse-affine", ("Add", "Sub", "Mul", "Div"), fuse_affine),
    Rule("matmul-to-gemm", ("MatMul",), matmul_to_gemm),
)
