"""Lowering to float standard operators: Div, Round, Add, Clip, Sub and Mul compute what the integers stand for.

Weights are their codes times their scale, as floats; biases lie on the grid of the int32 sums. Nothing runs on
integers: the file shows on any runtime what the quantized network computes. Every quantizer is marked (`marks.py`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from qir.fake_quant import FakeQuant
from qir.granularity import Granularity, PerBlock
from qir.graph import Graph, Value
from qir.module import Module
from qir.passes.analysis.arithmetic.quantizer import QuantizerArithmetic
from qir.passes.analysis.quantized_layers import QuantizedLayer, quantized_layers
from qir.passes.infrastructure.contract import Pass, PassContext
from qir.passes.lowering.holdings import Holding, Legalization
from qir.passes.lowering.legalize import legalization
from qir.passes.lowering.parts import emulate
from qir.passes.lowering.parts.chain import Chain
from qir.passes.lowering.parts.marks import MARKED_IR, mark
from qir.quantizers import kernels
from qir.quantizers.blocks import blocks_shape
from qir.tensor import Array, Tensor


@dataclass(frozen=True)
class LowerFloat(Pass):
    """Replace fake-quant nodes by arithmetic on floats in ONNX's standard operators.

    Verified IR in, verified IR out; the network computes the same up to the rounding of biases to int32 steps.
    """

    name: ClassVar[str] = "lower-float"

    def run(self, module: Module, context: PassContext) -> bool:
        """Lower the main graph; raises `ExportError` for what cannot be written."""
        graph, found = module.graph, legalization(module, context)
        for layer in list(quantized_layers(graph)):
            round_bias(graph, layer, found)
        for quantizer in map(FakeQuant, graph.fake_quants()):
            _lower(graph, quantizer, found)
        module.ir_version = max(module.ir_version, MARKED_IR)
        return True


def round_bias(graph: Graph, layer: QuantizedLayer, found: Legalization) -> None:
    """Put a constant bias on the grid of the layer's sums."""
    bias, codes = layer.bias, found.bias(layer)
    if bias is None or codes is None:
        return
    rounded = (codes.values.astype(np.float32) * codes.scale).astype(np.float32)
    made = graph.add_constant(f"{bias.name}.rounded", Tensor.of(rounded))
    layer.node.set_input(layer.node.inputs.index(bias), made)
    if not bias.uses and bias in graph.constants:
        graph.remove_constant(bias)


def _lower(graph: Graph, quantizer: FakeQuant, found: Legalization) -> None:
    source, chain = quantizer.source, Chain(graph, quantizer.node, quantizer.name)
    holding, record = found.holdings[quantizer.name], found.arithmetic.quantizer(quantizer)
    lower = _weight if source.is_constant else _activation
    lowered = lower(chain, quantizer, holding, record)
    mark(lowered, quantizer)
    quantizer.result.replace_all_uses_with(lowered)
    graph.erase(quantizer.node)
    if source.is_constant and not source.uses:
        graph.remove_constant(source)


def _weight(chain: Chain, quantizer: FakeQuant, holding: Holding, record: QuantizerArithmetic) -> Value:
    if holding.codes is None:
        return emulate.weight_levels(chain, record)
    codes, granularity = holding.codes, quantizer.granularity
    scales, zeros = (_spread(granularity, part, codes.values.shape) for part in (codes.scale, codes.zero_point))
    centred = codes.values - zeros
    value = chain.constant("codes", centred.astype(np.float32))
    scale = chain.constant("scale", scales)
    return chain.node(
        "Mul", (value, scale), "dequantize", quantizer.source.type, result=f"{quantizer.name}.dequantized"
    )


def _spread(granularity: Granularity, values: Array, shape: tuple[int, ...]) -> Array:
    """Return one number a channel or a block in a shape that broadcasts against the weight."""
    if not isinstance(granularity, PerBlock):
        return values.reshape(kernels.channel_shape(shape, values.size, granularity.axis))
    axis, block = granularity.axis, granularity.size
    return np.asarray(np.take(values.reshape(blocks_shape(shape, axis, block)), np.arange(shape[axis]) // block, axis))


def _activation(chain: Chain, quantizer: FakeQuant, holding: Holding, record: QuantizerArithmetic) -> Value:
    source = quantizer.source
    if holding.grid is None:
        return emulate.activation_levels(chain, source, record.grid)
    value = emulate.activation_codes(chain, source, record)
    if holding.grid.zero_point.any():
        zero = chain.constant("zero_point.back", holding.grid.zero_point.astype(np.float32).reshape(()))
        value = chain.node("Sub", (value, zero), "centred", source.type)
    scale = chain.constant("step", holding.grid.scale.reshape(()))
    return chain.node("Mul", (value, scale), "dequantize", source.type, result=f"{quantizer.name}.dequantized")
