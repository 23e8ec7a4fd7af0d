"""Lowering to FINN-ONNX: integer weights, layers that sum integers, and activations as MultiThreshold nodes.

Every activation quantizer becomes a MultiThreshold whose result is its codes less their zero point. A layer whose
operands are quantized computes on codes, exactly, in float32 containers; its requantization, bias and activation are
the thresholds of its output quantizer. Where a value is needed as a real number, after joins and at the outputs, its
codes are multiplied by their scale.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np

from qir.errors import ExportError
from qir.fake_quant import FakeQuant
from qir.graph import Graph, Node, Value
from qir.module import Module
from qir.onnx_io.annotations import annotate_data_types
from qir.ops import op_of
from qir.ops.families.qonnx import QONNX_DOMAIN
from qir.passes.analysis.arithmetic.accumulator import AccumulatorBounds
from qir.passes.analysis.arithmetic.codes import Codes
from qir.passes.analysis.arithmetic.layer import LayerArithmetic
from qir.passes.analysis.arithmetic.network import NetworkArithmetic
from qir.passes.analysis.arithmetic.quantizer import QuantizerArithmetic
from qir.passes.analysis.quantized_layers import QuantizedLayer, quantized_layers, sums_products
from qir.passes.infrastructure.contract import Pass, PassContext
from qir.passes.lowering.legalize import legalization
from qir.passes.lowering.parts.marks import MARKED_IR
from qir.passes.lowering.parts.qonnx_forms import smallest_type
from qir.passes.lowering.qonnx.lower_qonnx import (
    float_type,
    lower_quantizer,
    round_biases,
    scale_shape,
    write_known_types,
)
from qir.passes.lowering.qonnx.threshold_marks import mark_activation, mark_layer
from qir.passes.lowering.qonnx.thresholds import layer_thresholds, value_thresholds
from qir.passes.simplify.eliminate.dead_code import EliminateDeadCode
from qir.quantizers import QuantParameters
from qir.tensor import Array, Tensor

LARGEST_SUM = 2**24
"""float32 holds every integer up to this one."""

MOST_CODES = 256
"""FINN converts activations of up to 8 bits."""

_LAYOUTS = {2: "NC", 3: "NCW", 4: "NCHW", 5: "NCDHW"}


@dataclass(frozen=True)
class LowerThresholds(Pass):
    """Replace fake-quant nodes by MultiThreshold nodes and run layers on integers.

    Verified IR in, verified IR out. Layers compute the codes of ONNX Runtime's fused kernels exactly; joins and pooling
    compute on floats, as DequantizeLinear and QuantizeLinear would have it.
    """

    name: ClassVar[str] = "lower-thresholds"

    def run(self, module: Module, context: PassContext) -> bool:
        """Lower the main graph; raises `ExportError` for what thresholds cannot say."""
        graph, found = module.graph, legalization(module, context)
        layers = {layer.node: layer for layer in quantized_layers(graph)}
        lowering = _Lowering(graph, found.arithmetic, layers)
        for node in graph.nodes:
            if node.is_fake_quant:
                lowering.activation(FakeQuant(node))
            elif node in lowering.layers:
                lowering.layer(lowering.layers[node])
        context.run(EliminateDeadCode(), module)
        round_biases(graph, found)
        for quantizer in map(FakeQuant, graph.fake_quants()):
            result, form = lower_quantizer(graph, quantizer, found.arithmetic.quantizer(quantizer))
            lowering.types[result] = form.data_type
        annotate_data_types(graph, lowering.types)
        module.opsets.setdefault(QONNX_DOMAIN, 1)
        module.ir_version = max(module.ir_version, MARKED_IR)
        write_known_types(graph)
        return True


@dataclass
class _Lowering:
    """What is known while the graph is walked from inputs to outputs.

    Attributes:
        codes: for a real value on a grid, its codes less the zero point.
        sums: for an output quantizer, the layer and its integer sum without the bias.
        types: data types to annotate.
    """

    graph: Graph
    arithmetic: NetworkArithmetic
    layers: dict[Node, QuantizedLayer]
    codes: dict[Value, Value] = field(default_factory=dict)
    sums: dict[FakeQuant, tuple[QuantizedLayer, Value]] = field(default_factory=dict)
    types: dict[Value, str] = field(default_factory=dict)
    _weights: dict[tuple[FakeQuant, bool], tuple[Value, Codes]] = field(default_factory=dict)

    def activation(self, quantizer: FakeQuant) -> None:
        """Lower a quantizer of activations: MultiThreshold, and codes times the scale for readers of real values."""
        if quantizer.is_weight:
            return
        grid = _grid(self.arithmetic.quantizer(quantizer))
        low, high = grid.low_code - int(grid.zero_point[0]), grid.high_code - int(grid.zero_point[0])
        if quantizer in self.sums:
            layer, source = self.sums[quantizer]
            found = layer_thresholds(self.arithmetic.layer(layer))
            values = (found.values - found.bias.reshape(-1, 1)).astype(np.float32)
            axis = _channel_axis(layer)
        else:
            source, values, axis = quantizer.source, value_thresholds(grid), 1
        label = "BIPOLAR" if grid.code_step == 2 else smallest_type(low, high)
        table = self.graph.add_constant(f"{quantizer.name}.thresholds", Tensor.of(values))
        if quantizer in self.sums:
            self.types[table] = smallest_type(int(values.min()), int(values.max()))
        made = Node(
            "MultiThreshold",
            (source, table),
            (f"{quantizer.name}.codes",),
            domain=QONNX_DOMAIN,
            name=quantizer.name,
            attributes={"out_dtype": label, "out_scale": float(grid.code_step), "out_bias": float(low)}
            | _layout(source, axis),
        )
        mark_activation(made, quantizer, self.sums[quantizer][0] if quantizer in self.sums else None)
        codes = self._insert(made, quantizer.node, source)
        self.types[codes] = label
        shape = scale_shape(quantizer, quantizer.source, grid.channels)
        real = self._times(codes, grid.scale, quantizer.node, quantizer.name, shape)
        self.codes[real] = codes
        quantizer.result.replace_all_uses_with(real)

    def layer(self, layer: QuantizedLayer) -> None:
        """Lower a layer on codes: its sum goes to the thresholds of its output, or becomes a real value."""
        data = self._codes_of(layer.node.input(_operands(layer)[0]))
        if data is None or layer.weight_tensor is None or not sums_products(layer.node):
            return
        record = self.arithmetic.layer(layer)
        codes, product = record.weight.codes, record.product
        if codes is None or product is None:
            return
        bounds = _checked_bounds(record)
        weight = self._weight(layer, codes)
        bias = None if record.bias is None else record.bias.values.reshape(-1)
        gemm, index = layer.node.op == "Gemm", _operands(layer)[1]
        made = Node(
            "MatMul" if gemm else layer.node.op,
            (data, weight) if index == 1 else (weight, data),
            (self._free(f"{layer.name}.sum"),),
            name=layer.node.name,
            attributes={} if gemm else dict(layer.node.attributes),
        )
        mark_layer(made, layer, codes, bias, turned=_is_turned(layer), index=index)
        total = self._insert(made, layer.node, layer.node.result)
        if bounds is not None:
            self.types[total] = smallest_type(bounds.low, bounds.high)
        if layer.output is not None and record.output is not None:
            output = _grid(record.output)
            if output.is_affine and output.channels == 1:
                self.sums[layer.output] = (layer, total)
                return
        spread = [-1 if axis == _channel_axis(layer) else 1 for axis in range(layer.node.result.rank or 2)]
        if bias is not None:
            constant = self.graph.add_constant(f"{layer.name}.bias", Tensor.of(bias.astype(np.float32).reshape(spread)))
            name = self._free(f"{layer.name}.biased")
            added = Node("Add", (total, constant), (name,), name=self._free(f"{layer.name}.add"))
            total = self._insert(added, layer.node, total)
        shape = tuple(spread) if product.size > 1 else ()
        real = self._times(total, product, layer.node, layer.name, shape)
        layer.node.result.replace_all_uses_with(real)

    def _codes_of(self, value: Value | None) -> Value | None:
        """Return the codes after a real value, moved through operators that keep its grid."""
        if value is None or value in self.codes:
            return None if value is None else self.codes[value]
        node = value.producer
        index = None if node is None or node.is_fake_quant else op_of(node).grid_operand(node)
        source = None if node is None or index is None else self._codes_of(node.input(index))
        if node is None or index is None or source is None:
            return None
        operands = list(node.inputs)
        operands[index] = source
        name = f"{node.name or node.result.name}.codes"
        made = Node(node.op, operands, (name,), domain=node.domain, name=name, attributes=dict(node.attributes))
        self.codes[value] = found = self._insert(made, None, value, after=node)
        self.types[found] = self.types[source]
        return found

    def _weight(self, layer: QuantizedLayer, codes: Codes) -> Value:
        """Return the codes of a weight less their zero point, as a float constant.

        A Gemm's is transposed for MatMul.
        """
        turned = _is_turned(layer)
        key = (layer.weight, turned)
        if key not in self._weights:
            centred = codes.centred(layer.weight.granularity.axis).astype(np.float32)
            made = self.graph.add_constant(f"{layer.weight.name}.codes", Tensor.of(centred.T if turned else centred))
            zero = codes.zero_point
            bipolar = layer.weight.bits == 1 and bool((np.abs(centred) == 1).all())
            label = smallest_type(codes.low - int(zero.max()), codes.high - int(zero.min()))
            self.types[made] = "BIPOLAR" if bipolar else label
            self._weights[key] = made, codes
        return self._weights[key][0]

    def _times(self, value: Value, scale: Array, place: Node, name: str, shape: tuple[int, ...]) -> Value:
        """Return a value times a constant, in front of a node; the value itself where the constant is 1."""
        if (scale == 1).all():
            return value
        constant = self.graph.add_constant(f"{name}.scale", Tensor.of(np.asarray(scale, np.float32).reshape(shape)))
        made = Node("Mul", (value, constant), (self._free(f"{name}.real"),), name=self._free(f"{name}.scaling"))
        return self._insert(made, place, value)

    def _free(self, name: str) -> str:
        """Return a name that is not taken: layers that share a weight share their name."""
        return self.graph.clock.unique_name(name)

    def _insert(self, node: Node, before: Node | None, like: Value, after: Node | None = None) -> Value:
        self.graph.insert(node, before=before, after=after)
        node.result.type = float_type(like)
        return node.result


def _checked_bounds(layer: LayerArithmetic) -> AccumulatorBounds | None:
    """Return the bounds of a layer's sums without its bias, held against what float32 holds."""
    bounds = None if layer.sums is None else layer.sums.bounds()
    if bounds is not None and max(-bounds.low, bounds.high) > LARGEST_SUM:
        raise ExportError(
            f"layer {layer.name!r}: its sums reach {bounds.low} to {bounds.high}; FINN-ONNX holds integers "
            "up to 2^24 in float32: use fewer bits for its weights or input, or split the layer"
        )
    return bounds


def _grid(record: QuantizerArithmetic) -> QuantParameters:
    quantizer = record.quantizer
    if not isinstance(quantizer.bits, int):
        raise ExportError(
            f"quantizer {quantizer.name!r}: thresholds hold one width for an activation, not one a channel"
        )
    grid = record.grid
    if not (grid.is_affine or grid.codes == 2) or (grid.zero_point != grid.zero_point[0]).any():
        raise ExportError(
            f"quantizer {quantizer.name!r}: MultiThreshold steps by one scale: use a uniform scheme per tensor"
        )
    if grid.codes > MOST_CODES:
        raise ExportError(
            f"quantizer {quantizer.name!r}: {grid.codes} codes; FINN takes up to {MOST_CODES}: choose 8 bits"
        )
    return grid


def _operands(layer: QuantizedLayer) -> tuple[int, int]:
    operands = op_of(layer.node).quantizable(layer.node)
    if operands is None:
        raise ExportError(f"layer {layer.name!r}: {layer.node.op} multiplies no operands")
    return operands.data, operands.weight


def _is_turned(layer: QuantizedLayer) -> bool:
    """Return whether the weight is transposed on the way from Gemm to MatMul."""
    return layer.node.op == "Gemm" and bool(layer.node.attribute("transB", 0))


def _channel_axis(layer: QuantizedLayer) -> int:
    rank = layer.node.result.rank
    return rank - 1 if rank is not None and layer.node.op == "MatMul" else 1


def _layout(value: Value, axis: int) -> dict[str, str]:
    rank = value.rank
    if rank not in _LAYOUTS:
        return {}
    layout = _LAYOUTS[rank]
    return {"data_layout": layout if axis == 1 else layout.replace("C", "") + "C"}
