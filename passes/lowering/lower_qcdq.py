"""Lowering to QCDQ: QuantizeLinear → Clip (below 8 bits) → DequantizeLinear in 8-bit containers.

Activations are uint8, weights int8 per channel, biases int32 with scale s_x·s_w: what ONNX Runtime fuses into integer
kernels from opset 13 on. Every quantizer of the file stands in the graph before lowering; on values that keep a
quantizer's grid (max pooling, reshapes) the same QuantizeLinear/DequantizeLinear pair is repeated, which changes no
value and lets those ops run on codes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from qir.errors import ExportError
from qir.fake_quant import bits_of, parameters_of
from qir.graph import Graph, Node, Value
from qir.module import Module
from qir.ops import op_of
from qir.passes.accumulator_bounds import AccumulatorBounds, accumulator_bounds
from qir.passes.manager import Pass, PassContext
from qir.passes.quantized_layers import QuantizedLayer, quantized_layers
from qir.quantizers import QuantParameters, get_scheme
from qir.tensor import Array, Tensor
from qir.types import DType, TensorType, Type, code_range


@dataclass(frozen=True)
class LowerQcdq(Pass):
    """Replace fake-quant nodes by QuantizeLinear, Clip and DequantizeLinear in 8-bit containers.

    Verified IR in, verified IR out; the network computes the same up to the rounding of biases to int32.
    """

    name: ClassVar[str] = "lower-qcdq"

    def run(self, module: Module, context: PassContext) -> bool:  # noqa: ARG002
        """Lower the main graph; raises `ExportError` for what 8-bit containers cannot hold."""
        graph = module.graph
        if module.opsets.get("", 0) < 13:
            raise ExportError(
                f"opset {module.opsets.get('', 0)}: per-channel DequantizeLinear needs 13; convert the model first"
            )
        layers = list(quantized_layers(graph))
        for layer in layers:
            proven_bounds(layer)
            _lower_bias(graph, layer)
        for node in graph.fake_quants():
            _lower_quantizer(graph, node)
        return True


def container(node: Node) -> QuantParameters:
    """The grid of a quantizer, checked to fit 8-bit integers with a scale and a zero point.

    Raises:
        ExportError: the quantizer has per-channel widths, a table of levels, or more than 8 bits.
    """
    bits = bits_of(node)
    if not isinstance(bits, int):
        raise ExportError(f"quantizer {node.name!r} has one width per channel: QCDQ holds one width a tensor")
    parameters = parameters_of(node)
    lowest, highest = code_range(8, signed=parameters.low_code < 0)
    fits = lowest <= parameters.low_code and parameters.high_code <= highest
    if not parameters.has_integer_codes or not fits or not (parameters.is_affine or node.operands[0].is_constant):
        raise ExportError(
            f"quantizer {node.name!r}: {bits} bits {node.attribute('scheme')} do not fit 8-bit codes with a scale"
        )
    return parameters


def _lower_bias(graph: Graph, layer: QuantizedLayer) -> None:
    """Replace bias ≈ codes · s_x·s_w in int32 (ONNX Runtime's fused kernels take no other bias)."""
    bias = layer.bias
    if bias is None or bias.constant is None:
        return
    codes, scale = bias_codes(layer)
    quantized = graph.add_constant(f"{bias.name}.codes", Tensor.of(codes))
    scales = graph.add_constant(f"{bias.name}.scale", Tensor.of(scale if scale.size > 1 else scale.reshape(())))
    zero = graph.add_constant(
        f"{bias.name}.zero_point", Tensor.of(np.zeros(scales.constant.shape if scales.constant else (), np.int32))
    )
    made = Node(
        "DequantizeLinear",
        (quantized, scales, zero),
        (f"{bias.name}.dequantized",),
        name=f"{bias.name}.dequantize",
        attributes={"axis": 0},
    )
    graph.insert(made, before=layer.node)
    made.result.type = source_type(bias, DType.FLOAT32)
    layer.node.set_input(layer.node.inputs.index(bias), made.result)
    if not bias.uses and bias in graph.constants:
        graph.remove_constant(bias)


def proven_bounds(layer: QuantizedLayer) -> AccumulatorBounds | None:
    """The bounds that no accumulator of a layer can leave; None for products of two activations.

    Raises:
        ExportError: they leave int32, so that integer kernels could wrap around.
    """
    if layer.weight_tensor is None or not isinstance(bits_of(layer.weight), int):
        return None
    bias = None if layer.bias is None or layer.bias.constant is None else bias_codes(layer)[0]
    bounds = accumulator_bounds(layer, weight_codes(layer.weight), bias)
    if bounds is not None and bounds.bits > 32:
        raise ExportError(
            f"layer {layer.name!r}: its sums can reach {bounds.low} to {bounds.high}, {bounds.bits} bits, and leave "
            "int32: use fewer bits for its weights or input, or split the layer"
        )
    return bounds


def bias_codes(layer: QuantizedLayer) -> tuple[Array, Array]:
    """The int32 codes of a layer's bias [channels] and their float32 scale s_x·s_w [channels or 1].

    Raises:
        ExportError: a code does not fit int32 (the product of the scales underflows against the bias).
    """
    assert layer.bias is not None and layer.bias.constant is not None  # noqa: S101, PT018 - checked by the caller
    values = layer.bias.constant.numpy().astype(np.float64)
    scale = (parameters_of(layer.data).scale[0] * parameters_of(layer.weight).scale).astype(np.float32)
    codes = np.rint(values / scale)
    if not np.isfinite(codes).all() or np.abs(codes).max(initial=0) >= 2**31:
        raise ExportError(
            f"layer {layer.name!r}: bias (largest {np.abs(values).max():g}) exceeds int32 at scale {scale.min():g}; "
            "calibrate with a wider range, or equalize the weights"
        )
    return codes.astype(np.int32), scale


def _lower_quantizer(graph: Graph, node: Node) -> None:
    source, parameters = node.operands[0], container(node)
    if source.is_constant:
        lowered = _dequantize_constant(graph, node, parameters)
    else:
        lowered = _quantize(graph, node, source, parameters, after=node)
    _repeat_on_grid(graph, node, parameters)
    node.result.replace_all_uses_with(lowered)
    graph.erase(node)
    if source.is_constant and not source.uses:
        graph.remove_constant(source)


def weight_codes(node: Node) -> Array:
    """The integer codes of a weight's fake-quant node: int32, the weight's shape; 1 bit has the codes -1 and +1."""
    constant = node.operands[0].constant
    assert constant is not None  # noqa: S101 - only called on weights
    scheme = get_scheme("uniform")
    return np.asarray(scheme.quantize(constant.numpy().astype(np.float32), parameters_of(node), node.attribute("axis")))


def _dequantize_constant(graph: Graph, node: Node, parameters: QuantParameters) -> Value:
    dtype = DType.INT8 if parameters.low_code < 0 else DType.UINT8
    codes = graph.add_constant(f"{node.name}.codes", Tensor.of(weight_codes(node), dtype=dtype))
    scale, zero = _parameters(graph, node.name, parameters, dtype)
    attributes = {} if node.attribute("axis") is None else {"axis": node.attribute("axis")}
    made = Node(
        "DequantizeLinear",
        (codes, scale, zero),
        (f"{node.name}.dequantized",),
        name=f"{node.name}.dequantize",
        attributes=attributes,
    )
    graph.insert(made, before=node)
    made.result.type = source_type(node.operands[0], DType.FLOAT32)
    return made.result


def source_type(value: Value, element: DType) -> Type:
    """The type of a value with another element type; unknown stays unknown."""
    return value.type.with_element(element) if isinstance(value.type, TensorType) else value.type


def _quantize(
    graph: Graph,
    node: Node,
    source: Value,
    parameters: QuantParameters,
    *,
    after: Node,
    name: str = "",
    clip: bool = True,
) -> Value:
    name = name or node.name
    dtype = DType.INT8 if parameters.low_code < 0 else DType.UINT8
    scale, zero = _parameters(graph, name, parameters, dtype)
    quantize = graph.insert(
        Node("QuantizeLinear", (source, scale, zero), (f"{name}.codes",), name=f"{name}.quantize"), after=after
    )
    last = quantize
    if clip and (parameters.low_code, parameters.high_code) != code_range(8, signed=dtype is DType.INT8):
        bounds = [
            graph.add_constant(f"{name}.{label}", Tensor.of(np.asarray(code), dtype=dtype))
            for label, code in (("low", parameters.low_code), ("high", parameters.high_code))
        ]
        last = graph.insert(
            Node("Clip", (quantize.result, *bounds), (f"{name}.clipped",), name=f"{name}.clip"), after=last
        )
    made = Node("DequantizeLinear", (last.result, scale, zero), (f"{name}.dequantized",), name=f"{name}.dequantize")
    quantize.result.type = last.result.type = source_type(source, dtype)
    made.result.type = source_type(source, DType.FLOAT32)
    return graph.insert(made, after=last).result


def _parameters(graph: Graph, name: str, parameters: QuantParameters, dtype: DType) -> tuple[Value, Value]:
    shape = (-1,) if parameters.channels > 1 else ()
    scale = graph.add_constant(f"{name}.scale", Tensor.of(parameters.scale.reshape(shape)))
    zero = graph.add_constant(f"{name}.zero_point", Tensor.of(parameters.zero_point.reshape(shape), dtype=dtype))
    return scale, zero


def _repeat_on_grid(graph: Graph, node: Node, parameters: QuantParameters) -> None:
    """Quantize and dequantize again behind ops that keep the grid, so that they run on codes."""
    for use in node.result.uses:
        user = use.node
        if user.is_return or op_of(user).grid_operand(user) != use.index or node.operands[0].is_constant:
            continue
        name = f"{user.name or user.result.name}.requantized"
        _repeat_behind(graph, user, node, parameters, name)


def _repeat_behind(graph: Graph, user: Node, node: Node, parameters: QuantParameters, name: str) -> None:
    uses = user.result.uses
    lowered = _quantize(graph, node, user.result, parameters, after=user, name=name, clip=False)
    for use in uses:
        use.node.set_input(use.index, lowered)
    for use in uses:
        follower = use.node
        if not follower.is_return and op_of(follower).grid_operand(follower) == use.index:
            _repeat_behind(graph, follower, node, parameters, f"{follower.name or follower.result.name}.requantized")
