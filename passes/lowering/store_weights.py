"""Element types of 8-bit weight codes: int8, or uint8 with zero point 128 where an int8 kernel could saturate.

The values and the kernels that ONNX Runtime fuses are the same; x86 CPUs without VNNI add products of unsigned by
unsigned bytes exactly (`qir.passes.saturation`).
"""

from __future__ import annotations

from qir.backends.saturation import WeightStorage
from qir.graph import Graph, Node
from qir.ops import op_of
from qir.passes.lowering.holdings import Legalization
from qir.passes.quantized_layers import QuantizedLayer, quantized_layers
from qir.passes.saturation import planned
from qir.types import DType


def store_weights(graph: Graph, found: Legalization, weights: WeightStorage) -> None:
    """Choose the element types in `found.holdings`, and list the layers in `found.saturating` that can saturate still.

    Every quantizer has one element type, whatever layers read it. Computed operands of products are stored as uint8
    too where `auto` asks for it and only products read them.

    Args:
        graph: network with fake-quant nodes.
        found: what `legalize` found; its profile tells whether there is uint8.
        weights: how codes of weights are stored.
    """
    layers = list(quantized_layers(graph))
    while wanted := [layer.weight for layer in layers if _is_wanted(layer, found, weights)]:
        for quantizer in wanted:
            holding = found.holdings[quantizer.name]
            if holding.container is DType.INT8:  # two layers may read it
                found.holdings[quantizer.name] = holding.unsigned()
    fused = "session.disable_quant_qdq" not in found.profile.session
    for layer in layers:
        if fused and _saturates(layer, found):
            found.saturating[layer.name] = (
                layer.weight_tensor is not None and "lower-qoperator" not in found.profile.passes
            )


def _is_wanted(layer: QuantizedLayer, found: Legalization, weights: WeightStorage) -> bool:
    """Whether the weight of a layer is int8 and is to be uint8."""
    data, weight = (found.holdings[operand.name] for operand in (layer.data, layer.weight))
    if weights == "int8" or "uint8" not in found.profile.weights or weight.container is not DType.INT8:
        return False
    if layer.weight_tensor is None:
        return weight.form == "affine" and _saturates(layer, found) and _only_products_read(layer.weight)
    return (weights == "uint8" and data.container is DType.UINT8) or _saturates(layer, found)


def _saturates(layer: QuantizedLayer, found: Legalization) -> bool:
    data, weight = (found.holdings[operand.name] for operand in (layer.data, layer.weight))
    if data.container not in (DType.UINT8, DType.INT8) or weight.container is not DType.INT8:
        return False
    return planned(layer, data.stored(), weight.stored())


def _only_products_read(quantizer: Node) -> bool:
    """Whether all that reads a quantizer, behind operators that keep its grid, are sums of products.

    Additions and concatenations have kernels for operands of one element type only.
    """
    reached = [quantizer.result]
    while reached:
        for use in reached.pop().uses:
            if use.node.is_return:
                continue
            if op_of(use.node).grid_operand(use.node) == use.index:
                reached.append(use.node.result)
            elif op_of(use.node).quantizable(use.node) is None:
                return False
    return True
