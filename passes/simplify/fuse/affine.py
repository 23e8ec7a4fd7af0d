"""Constants added to or multiplied with a layer's result go into the layer; MatMul and Add become Gemm."""

from __future__ import annotations

from functools import partial

import numpy as np

from qir.graph import Node
from qir.passes.analysis.affine import Affine, elementwise_affine
from qir.passes.analysis.constants import array_of, erase, replace, set_constant
from qir.passes.analysis.layers import MatMulLayer, layer_at, layer_producing
from qir.passes.analysis.linear_layer import PREACTIVATION, Edit, multiplied, rank_of
from qir.rewriting.engine import Match, Plan, Reject, Rewriter, Rule, op


def fuse_affine(match: Match) -> Reject | Plan:
    """Conv, ConvTranspose, Gemm or MatMul, then Add, Sub, Mul or Div by one constant a channel: into the layer."""
    node, reasons = match.root, []
    for data in node.operands:
        if len(data.uses) != 1 or data.producer is None or data.producer.graph is not node.graph:
            continue
        layer = layer_producing(data)
        if isinstance(layer, Reject):
            reasons.append(layer.reason)
            continue
        affine = elementwise_affine(node, data, layer.axis, layer.out_channels, layer.rank)
        edit = affine if isinstance(affine, Reject) else layer.after(affine)
        if isinstance(edit, Reject) or isinstance(affine, Reject):
            reasons.append(edit.reason if isinstance(edit, Reject) else "")
            continue
        return partial(_fuse, node, edit, affine)
    return Reject("; ".join(reasons) or "no operand is the result of a layer that nothing else uses")


def _fuse(node: Node, edit: Edit, affine: Affine, _: Rewriter) -> None:
    edit.apply()
    _follow(edit.layer.node, affine)
    left = node.input(0)
    result = left if left is not None and array_of(left) is None else node.input(1)
    assert result is not None  # noqa: S101 - one operand is the layer's result
    replace(node, result)


def _follow(layer: Node, affine: Affine) -> None:
    known = layer.meta.get(PREACTIVATION)
    if known is not None:
        layer.meta[PREACTIVATION] = (known[0] * affine.scale + affine.shift, known[1] * abs(affine.scale))


def matmul_to_gemm(match: Match) -> Reject | Plan:
    """MatMul of a matrix by a constant matrix, then Add of a constant vector: Gemm."""
    node = match.root
    layer = layer_at(node)
    if not isinstance(layer, MatMulLayer) or layer.add is None or rank_of(node.input(0)) != 2:
        return Reject("it is not a product of a matrix and a constant matrix with a constant added")
    add = layer.add
    bias = add.input(0) if array_of(add.input(0)) is not None else add.input(1)
    values = array_of(bias)
    if values is None or values.size != layer.out_channels:
        return Reject("what is added is not a vector over the columns")

    def change(rewriter: Rewriter) -> None:
        gemm = Node("Gemm", (node.input(0), node.input(1), bias), name=node.name)
        gemm.result.type = add.result.type
        rewriter.insert(gemm, before=node)
        add.result.replace_all_uses_with(gemm.result)
        erase(add)
        erase(node)

    return change


def gemm_factors(match: Match) -> Reject | Plan:
    """Gemm with factors other than 1: they go into its constant weight and bias."""
    node = match.root
    factors = {1: node.attribute("alpha", 1.0), 2: node.attribute("beta", 1.0) if node.input(2) is not None else 1.0}
    scaled = {index: factor for index, factor in factors.items() if factor != 1.0}
    arrays = {index: array_of(node.input(index)) for index in scaled}
    if not scaled:
        return Reject("its factors are 1")
    if any(array is None or array.dtype.kind in "iu" for array in arrays.values()):
        return Reject("what a factor scales is not a constant of real numbers")

    def change(_: Rewriter) -> None:
        for index, array in arrays.items():
            value = node.input(index)
            assert array is not None and value is not None  # noqa: S101, PT018 - checked above
            set_constant(node, index, multiplied(array, np.asarray(scaled[index])), value.name)
        node.set_attribute("alpha", None)
        node.set_attribute("beta", None)

    return change


RULES = (
    Rule("gemm-factors", op("Gemm"), plan=gemm_factors, since=7),
    Rule("fuse-affine", op(("Add", "Sub", "Mul", "Div")), plan=fuse_affine),
    Rule("matmul-to-gemm", op("MatMul"), plan=matmul_to_gemm, since=7),
)
