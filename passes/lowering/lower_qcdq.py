"""Lowering to QDQ: QuantizeLinear → Clip (where the container is wider than the codes) → DequantizeLinear.

The container of every quantizer is what `legalize` chose: 8 bits for the profiles qcdq and qcdq-packed, 4, 2 or 16
bits for the native ones. Biases are int32 with scale s_x·s_w: with 8 bits that is what ONNX Runtime fuses into integer
kernels from opset 13 on. Every quantizer of the file stands in the graph before lowering; on values that keep a
quantizer's grid (max pooling, reshapes) the same QuantizeLinear/DequantizeLinear pair is repeated, which changes no
value and lets those ops run on codes. What no container holds is emulated (`emulate.py`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from qir.errors import ExportError
from qir.fake_quant import FakeQuant
from qir.granularity import PerBlock
from qir.graph import Graph, Node, Value
from qir.module import Module
from qir.ops import op_of
from qir.passes.analysis.arithmetic.quantizer import QuantizerArithmetic
from qir.passes.analysis.quantized_layers import (
    QuantizedLayer,
    StoredWeight,
    clipped_by_codes,
    quantized_layers,
    stored_weights,
)
from qir.passes.infrastructure.contract import Pass, PassContext
from qir.passes.lowering.holdings import FLOAT, Holding, Legalization
from qir.passes.lowering.legalize import legalization
from qir.passes.lowering.parts import emulate
from qir.passes.lowering.parts.blocks import NATIVE_OPSET, dequantize_blocks
from qir.passes.lowering.parts.chain import Chain, of_element
from qir.passes.lowering.parts.marks import KEY, MARKED_IR, mark
from qir.passes.lowering.profiles.fused_kernels import avoid_deviations
from qir.quantizers import QuantParameters
from qir.tensor import Array, Tensor
from qir.tracing import quantizer_of
from qir.types import DType, TensorType, code_range
from qir.value import Use


@dataclass(frozen=True)
class LowerQcdq(Pass):
    """Replace fake-quant nodes by QuantizeLinear, Clip and DequantizeLinear in the containers of the profile.

    Verified IR in, verified IR out; the network computes the same up to the rounding of biases to int32.
    """

    name: ClassVar[str] = "lower-qcdq"

    def run(self, module: Module, context: PassContext) -> bool:
        """Lower the main graph; raises `ExportError` for what the profile's containers cannot hold."""
        graph, found = module.graph, legalization(module, context)
        if module.opsets.get("", 0) < found.profile.opset:
            raise ExportError(
                f"opset {module.opsets.get('', 0)}: profile {found.profile.name!r} needs {found.profile.opset}: run "
                f"upgrade-opset{{version={found.profile.opset}}} first"
            )
        for layer in list(quantized_layers(graph)):
            _lower_bias(graph, layer, found)
            _guard(graph, layer, found)
        fusing = module.opsets.get("", 0) >= NATIVE_OPSET
        for stored in list(stored_weights(graph)):
            _guard_blocks(graph, stored, fusing=fusing)
        for node in list(graph):
            _guard_unplaced(graph, node)
            avoid_deviations(graph, node)
        for quantizer in map(FakeQuant, graph.fake_quants()):
            _lower_quantizer(graph, quantizer, found, module.opsets.get("", 0))
        if any(KEY in node.metadata for node in graph):
            module.ir_version = max(module.ir_version, MARKED_IR)
        return True


def _lower_bias(graph: Graph, layer: QuantizedLayer, found: Legalization) -> None:
    """Replace bias ≈ codes · s_x·s_w in int32 (ONNX Runtime's fused kernels take no other bias)."""
    bias, found_codes = layer.bias, found.bias(layer)
    if bias is None or found_codes is None or found_codes.exceeds_int32:
        return
    codes, scale = found_codes.values, found_codes.scale
    quantized = graph.add_constant(f"{bias.name}.codes", Tensor.of(codes))
    scales = graph.add_constant(f"{bias.name}.scale", Tensor.of(scale if scale.size > 1 else scale.reshape(())))
    zero = graph.add_constant(
        f"{bias.name}.zero_point", Tensor.of(np.zeros(scales.constant.shape if scales.constant else (), np.int32))
    )
    name, result = (graph.clock.unique_name(f"{bias.name}.{label}") for label in ("dequantize", "dequantized"))
    made = Node(
        "DequantizeLinear", (quantized, scales, zero), (result,), name=name, attributes={"axis": codes.ndim - 1}
    )
    graph.insert(made, before=layer.node)
    made.result.type = TensorType(DType.FLOAT32, codes.shape)
    layer.node.set_input(layer.node.inputs.index(bias), made.result)
    if not bias.uses and bias in graph.constants:
        graph.remove_constant(bias)


def _guard(graph: Graph, layer: QuantizedLayer, found: Legalization) -> None:
    """Keep a layer apart whose float weight or bias ONNX Runtime would quantize between quantized activations."""
    operand = op_of(layer.node).quantizable(layer.node)
    float_weight = found.holdings[layer.weight.name].container is FLOAT and layer.weight_tensor is not None
    bias = None if layer.bias_index is None else layer.node.input(layer.bias_index)
    if operand is None or not (float_weight or (bias is not None and bias.is_constant)):
        return
    data = layer.node.operand(operand.data)
    layer.node.set_input(operand.data, emulate.guarded(Chain(graph, layer.node, layer.name), data))


def _guard_blocks(graph: Graph, stored: StoredWeight, *, fusing: bool) -> None:
    """Keep a layer with blocks of scales from becoming another operator than it has a kernel for.

    Between quantizers it would become an integer kernel with one scale a channel. A product of floats becomes
    MatMulNBits, but not where an activation or a quantizer directly follows: ONNX Runtime then fuses those first.
    """
    operands = op_of(stored.node).quantizable(stored.node)
    data = None if operands is None else stored.node.input(operands.data)
    if operands is None or data is None:
        return
    if quantizer_of(data) is not None:
        guarded = emulate.guarded(Chain(graph, stored.node, stored.quantizer.name), data)
        stored.node.set_input(operands.data, guarded)
    elif fusing and stored.node.op == "MatMul":
        last = _with_bias(stored.node)
        for use in last.uses:
            follower = use.node
            if not follower.is_return and len(follower.operands) == 1 and op_of(follower).is_elementwise:
                follower.set_input(use.index, emulate.guarded(Chain(graph, follower, stored.quantizer.name), last))


def _with_bias(node: Node) -> Value:
    """Return the result of a product, or of the addition of a constant that alone reads it."""
    users = node.result.users
    added = len(users) == 1 and not users[0].is_return and users[0].op == "Add"
    return users[0].result if added and any(value.is_constant for value in users[0].operands) else node.result


def _guard_unplaced(graph: Graph, node: Node) -> None:
    """Keep a layer float whose weight has no quantizer; ONNX Runtime would quantize it between quantizers."""
    operands = op_of(node).quantizable(node)
    if operands is None:
        return
    data, weight = node.input(operands.data), node.input(operands.weight)
    if data is not None and weight is not None and weight.is_constant and quantizer_of(data) is not None:
        node.set_input(operands.data, emulate.guarded(Chain(graph, node, node.name or node.result.name), data))


def _lower_quantizer(graph: Graph, quantizer: FakeQuant, found: Legalization, opset: int) -> None:
    source, node = quantizer.source, quantizer.node
    holding, record = found.holdings[quantizer.name], found.arithmetic.quantizer(quantizer)
    if source.is_constant:
        lowered = _dequantize_constant(graph, quantizer, holding, record, opset)
    elif holding.form == "affine" and holding.grid is not None:
        _pass_clips(graph, node, holding.grid)
        source = quantizer.source
        lowered = _quantize(graph, node.name, source, holding, after=node)
    else:
        lowered = _emulate(graph, quantizer, holding, record)
    if holding.grid is not None and not source.is_constant:
        _repeat_on_grid(graph, node, holding)
    rearranged = isinstance(quantizer.granularity, PerBlock) and opset < NATIVE_OPSET
    if rearranged or _needs_mark(holding, source):
        mark(lowered, quantizer)
    node.result.replace_all_uses_with(lowered)
    graph.erase(node)
    if source.is_constant and not source.uses:
        graph.remove_constant(source)


def _pass_clips(graph: Graph, node: Node, grid: QuantParameters) -> None:
    """Read what stands before Clips that the quantizer's codes make superfluous."""
    last, first = node.operands[0], clipped_by_codes(node, grid)
    node.set_input(0, first)
    while last is not first and (clip := last.producer) is not None:
        last = clip.operand(0)
        graph.erase(clip)


def _needs_mark(holding: Holding, source: Value) -> bool:
    """Return whether the operators alone do not tell the quantizer.

    Tables, odd codes, widths per channel, clips by int32.
    """
    if holding.form != "affine" or holding.grid is None:
        return True
    if source.is_constant:
        return holding.grid.code_step > 1 and holding.grid.codes > 2
    return holding.container.bits == 16 and not fills(holding.grid, holding.container)


def _emulate(graph: Graph, quantizer: FakeQuant, holding: Holding, record: QuantizerArithmetic) -> Value:
    """Return an activation's codes computed in float, dequantized from their container; or its levels."""
    source, chain = quantizer.source, Chain(graph, quantizer.node, quantizer.name)
    if holding.grid is None:
        return emulate.activation_levels(chain, source, record.grid)
    codes = emulate.activation_codes(chain, source, record)
    dtype = holding.container
    codes = chain.node("Cast", (codes,), "cast", source.type, dtype, f"{quantizer.name}.codes", to=dtype.onnx_code)
    scale, zero = _parameters(graph, quantizer.name, holding.grid.scale, holding.grid.zero_point, dtype)
    return chain.node(
        "DequantizeLinear", (codes, scale, zero), "dequantize", source.type, result=f"{quantizer.name}.dequantized"
    )


def _dequantize_constant(
    graph: Graph, quantizer: FakeQuant, holding: Holding, record: QuantizerArithmetic, opset: int
) -> Value:
    chain, dtype = Chain(graph, quantizer.node, quantizer.name), holding.container
    if holding.codes is None:
        return emulate.weight_levels(chain, record)
    granularity = quantizer.granularity
    if isinstance(granularity, PerBlock):
        return dequantize_blocks(chain, quantizer.name, granularity, holding.codes, dtype, opset)
    codes = chain.constant("codes", holding.codes.values, dtype)
    scale, zero = _parameters(graph, quantizer.name, holding.codes.scale, holding.codes.zero_point, dtype)
    attributes: dict[str, Any] = {} if granularity.axis is None else {"axis": granularity.axis}
    return chain.node(
        "DequantizeLinear",
        (codes, scale, zero),
        "dequantize",
        quantizer.source.type,
        result=f"{quantizer.name}.dequantized",
        **attributes,
    )


def _quantize(graph: Graph, name: str, source: Value, holding: Holding, *, after: Node, clip: bool = True) -> Value:
    grid, dtype = holding.integers, holding.container
    scale, zero = _parameters(graph, name, grid.scale, grid.zero_point, dtype)
    quantize = graph.insert(
        Node("QuantizeLinear", (source, scale, zero), (f"{name}.codes",), name=f"{name}.quantize"), after=after
    )
    quantize.result.type = of_element(source.type, dtype)
    last = _clip(graph, name, quantize, holding) if clip and not fills(grid, dtype) else quantize
    made = Node("DequantizeLinear", (last.result, scale, zero), (f"{name}.dequantized",), name=f"{name}.dequantize")
    made.result.type = of_element(source.type, DType.FLOAT32)
    return graph.insert(made, after=last).result


def _clip(graph: Graph, name: str, quantize: Node, holding: Holding) -> Node:
    """Return the node that limits codes to those of the grid.

    ONNX Runtime clips no 16-bit integers, so they pass by int32.
    """
    grid, dtype = holding.integers, holding.container
    clipped = DType.INT32 if dtype.bits == 16 else dtype
    bounds = [
        graph.add_constant(f"{name}.{label}", Tensor.of(np.asarray(code), dtype=clipped))
        for label, code in (("low", grid.low_code), ("high", grid.high_code))
    ]
    last = quantize
    if clipped is not dtype:
        last = _cast(graph, f"{name}.widen", last, clipped)
    limited = f"{name}.limited" if clipped is not dtype else f"{name}.clipped"
    clip = graph.insert(Node("Clip", (last.result, *bounds), (limited,), name=f"{name}.clip"), after=last)
    clip.result.type = of_element(quantize.result.type, clipped)
    return _cast(graph, f"{name}.clipped", clip, dtype) if clipped is not dtype else clip


def _cast(graph: Graph, name: str, source: Node, dtype: DType) -> Node:
    made = Node("Cast", (source.result,), (name,), name=f"{name}.cast", attributes={"to": dtype.onnx_code})
    made.result.type = of_element(source.result.type, dtype)
    return graph.insert(made, after=source)


def fills(grid: QuantParameters, dtype: DType) -> bool:
    """Return whether the codes are all that the container has."""
    return (grid.low_code, grid.high_code) == code_range(dtype.bits, signed=dtype.label.startswith("int"))


def _parameters(graph: Graph, name: str, scale: Array, zero_point: Array, dtype: DType) -> tuple[Value, Value]:
    shape = (-1,) if scale.size > 1 else ()
    return (
        graph.add_constant(f"{name}.scale", Tensor.of(scale.reshape(shape))),
        graph.add_constant(f"{name}.zero_point", Tensor.of(zero_point.reshape(shape), dtype=dtype)),
    )


def _repeat_on_grid(graph: Graph, node: Node, holding: Holding) -> None:
    """Quantize and dequantize again after ops that keep the grid, so that they run on codes."""
    for use in node.result.uses:
        user = use.node
        if _keeps_grid(graph, use):
            _repeat_after(graph, user, holding)


def _keeps_grid(graph: Graph, use: Use) -> bool:
    """Return whether a node of the graph keeps an operand's grid; what subgraphs capture is quantized no further."""
    node = use.node
    return not node.is_return and node.graph is graph and op_of(node).grid_operand(node) == use.index


def _repeat_after(graph: Graph, user: Node, holding: Holding) -> None:
    uses = user.result.uses
    name = graph.clock.unique_name(f"{user.label}.requantized")
    lowered = _quantize(graph, name, user.result, holding, after=user, clip=False)
    for use in uses:
        use.node.set_input(use.index, lowered)
    for use in uses:
        if _keeps_grid(graph, use):
            _repeat_after(graph, use.node, holding)
