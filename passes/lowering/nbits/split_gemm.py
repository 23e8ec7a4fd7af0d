"""Gemm with blocks of scales as MatMul and Add: ONNX Runtime's kernels for such weights are made of MatMul alone."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from qir.fake_quant import FakeQuant
from qir.granularity import PerBlock, granularity_of
from qir.graph import Graph, Node
from qir.module import Module
from qir.ops import op_of
from qir.passes.analysis.quantized_layers import sums_products
from qir.passes.infrastructure.contract import Pass, PassContext
from qir.passes.lowering.parts.chain import Chain
from qir.quantizers.blocks import blocks_shape
from qir.tensor import Tensor
from qir.tracing import quantizer_of


@dataclass(frozen=True)
class SplitGemm(Pass):
    """Write every Gemm whose weight alone has codes, or blocks of scales, as MatMul, and Add where it has a bias.

    Verified IR in, verified IR out; the network computes the same. The weight of a Gemm with transB is transposed, and
    the ranges of its quantizer with it. A weight that more than one node reads, and factors other than 1, stay.
    """

    name: ClassVar[str] = "split-gemm"

    def run(self, module: Module, context: PassContext) -> bool:  # noqa: ARG002
        """Split; True when there was such a Gemm."""
        graph, before = module.graph, module.version
        for node in graph.nodes:
            operands = op_of(node).quantizable(node) if node.op == "Gemm" and sums_products(node) else None
            weight = None if operands is None else quantizer_of(node.input(operands.weight))
            if weight is None or not weight.is_weight:
                continue
            data = quantizer_of(node.input(0))
            alone = data is None or data.is_weight
            if not alone and not isinstance(weight.granularity, PerBlock):
                continue
            if not node.attribute("transB", 0) or _transpose(graph, weight):
                _split(graph, node, weight)
        return module.version != before


def _transpose(graph: Graph, weight: FakeQuant) -> bool:
    """Turn a weight [out, in] into [in, out] with its grids; whether it is read in one place only."""
    source, granularity = weight.source, weight.granularity
    constant, calibration = source.constant, weight.calibration
    if len(source.users) != 1 or len(weight.result.users) != 1 or constant is None:
        return False
    values = constant.numpy()
    turned = Tensor.of(np.ascontiguousarray(values.T))
    weight.node.set_input(0, graph.add_constant(graph.clock.unique_name(f"{source.name}.transposed"), turned))
    if isinstance(granularity, PerBlock) and calibration is not None:
        counts = blocks_shape(values.shape, granularity.axis, granularity.size)
        calibration = np.swapaxes(calibration.reshape(-1, *counts, 2), 1, 2).reshape(calibration.shape)
    if granularity.axis is not None:
        weight.granularity = granularity_of(1 - granularity.axis, granularity.size)
    weight.calibration = calibration
    graph.remove_constant(source)
    return True


def _split(graph: Graph, node: Node, weight: FakeQuant) -> None:
    chain, bias, result, name = Chain(graph, node, node.name), node.input(2), node.result, node.result.name
    last = chain.node("MatMul", (node.input(0), weight.result), "product", result.type)
    if bias is not None:
        last = chain.node("Add", (last, bias), "sum", result.type)
    result.replace_all_uses_with(last)
    graph.erase(node)
    last.name = name
