"""Constants added to or multiplied with a layer's result go into the layer; MatMul and Add become Gemm."""

from __future__ import annotations

from functools import partial

import numpy as np

from qir.graph import Node
from qir.ops.definition import rank_of
from qir.passes.analysis.affine import Affine, elementwise_affine
from qir.passes.analysis.constants import array_of, set_constant
from qir.passes.analysis.layers import MatMulLayer, layer_at, layer_producing
from qir.passes.analysis.linear_layer import PREACTIVATION, Edit, scaled_weight
from qir.rewriting.engine import Match, Plan, Reject, Rewriter, Rule, any_value, constant, op

LAYER = op(("Conv", "ConvTranspose", "Gemm", "MatMul", "Add"), name="layer", only_use=True)
STEP = op(("Add", "Sub", "Mul", "Div"), LAYER, constant(), commutes=True)
PRODUCT = op("MatMul", any_value("x"), constant("matrix"), name="product", only_use=True)
BIASED = op("Add", PRODUCT, constant("bias"), commutes=True)


def fuse_affine(match: Match) -> Reject | Plan:
    """Conv, ConvTranspose, Gemm or MatMul, then Add, Sub, Mul or Div by one constant a channel: into the layer."""
    data = match["layer"]
    layer = layer_producing(data)
    if isinstance(layer, Reject):
        return layer
    affine = elementwise_affine(match.root, data, layer.axis, layer.out_channels, layer.rank)
    edit = affine if isinstance(affine, Reject) else layer.after(affine)
    if isinstance(edit, Reject) or isinstance(affine, Reject):
        return edit if isinstance(edit, Reject) else Reject("it is not one constant a channel")
    return partial(_fuse, match.root, edit, affine)


def _fuse(node: Node, edit: Edit, affine: Affine, rewriter: Rewriter) -> None:
    rewriter.modify(edit.layer.node, edit.apply)
    _follow(edit.layer.node, affine)
    rewriter.replace(node, [], [edit.layer.result])


def _follow(layer: Node, affine: Affine) -> None:
    known = layer.meta.get(PREACTIVATION)
    if known is not None:
        layer.meta[PREACTIVATION] = (known[0] * affine.scale + affine.shift, known[1] * abs(affine.scale))


def matmul_to_gemm(match: Match) -> Reject | Plan:
    """MatMul of a matrix by a constant matrix, then Add of a constant vector: Gemm."""
    layer = layer_at(match.node("product"))
    if isinstance(layer, Reject):
        return layer
    if rank_of(match["x"]) != 2:
        return Reject("it is not a matrix", match["x"])
    if not isinstance(layer, MatMulLayer) or layer.add is None:
        return Reject("it is not a vector over the columns", match["bias"])
    values = array_of(match["bias"])
    if values is None or values.size != layer.out_channels:
        return Reject("it is not a vector over the columns", match["bias"])
    operands = (match["x"], match["matrix"], match["bias"])
    gemm = Node("Gemm", operands, name=layer.node.name)
    return lambda rewriter: rewriter.replace(match.root, [gemm])


def gemm_factors(match: Match) -> Reject | Plan:
    """Gemm with factors other than 1: they go into its constant weight and bias."""
    node = match.root
    factors = {1: node.attribute("alpha", 1.0), 2: node.attribute("beta", 1.0) if node.input(2) is not None else 1.0}
    scaled = {index: factor for index, factor in factors.items() if factor != 1.0}
    if not scaled:
        return Reject("its factors are 1")
    found = {index: array_of(node.input(index)) for index in scaled}
    arrays = {index: array for index, array in found.items() if array is not None and array.dtype.kind not in "iu"}
    if len(arrays) < len(scaled):
        return Reject("what a factor scales is not a constant of real numbers")

    def write() -> None:
        for index, array in arrays.items():
            set_constant(node, index, scaled_weight(array, np.asarray(scaled[index])), node.operand(index).name)
        node.set_attribute("alpha", None)
        node.set_attribute("beta", None)

    return lambda rewriter: rewriter.modify(node, write)


RULES = (
    Rule("gemm-factors", op("Gemm"), plan=gemm_factors, since=7),
    Rule("matmul-to-gemm", BIASED, plan=matmul_to_gemm, since=7),
    Rule("fuse-affine", STEP, plan=fuse_affine),
)
