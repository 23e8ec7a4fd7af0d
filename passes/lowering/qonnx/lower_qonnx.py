"""Lowering to QONNX: every fake-quant node becomes Quant or BipolarQuant, weights stay float constants on their grids.

The network stays a float network: layers compute on float32 between quantizers, as DequantizeLinear would feed them.
Biases are float constants rounded to the int32 grid of their layer. `quantization_annotation` names the data type of
every quantized tensor as QONNX itself infers it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from qir.errors import ExportError
from qir.fake_quant import FakeQuant
from qir.graph import Graph, Node, Value
from qir.module import Module
from qir.onnx_io.annotations import annotate_data_types
from qir.ops.families.qonnx import QONNX_DOMAIN
from qir.passes.analysis.arithmetic.quantizer import QuantizerArithmetic
from qir.passes.analysis.constants import remove_unused
from qir.passes.analysis.quantized_layers import quantized_layers
from qir.passes.infrastructure.contract import Pass, PassContext
from qir.passes.lowering.holdings import Legalization
from qir.passes.lowering.legalize import legalization
from qir.passes.lowering.lower_float import round_bias
from qir.passes.lowering.parts.qonnx_forms import QonnxForm, activation_form, weight_form
from qir.quantizers.kernels import channel_shape
from qir.tensor import Tensor
from qir.types import DType, TensorType, Type


@dataclass(frozen=True)
class LowerQonnx(Pass):
    """Replace fake-quant nodes by QONNX's quantizers.

    Verified IR in, verified IR out; the network computes the same up to the rounding of biases to int32.
    """

    name: ClassVar[str] = "lower-qonnx"

    def run(self, module: Module, context: PassContext) -> bool:
        """Lower the main graph; raises `ExportError` for what QONNX cannot say."""
        graph, found = module.graph, legalization(module, context)
        round_biases(graph, found)
        types = {}
        for quantizer in map(FakeQuant, graph.fake_quants()):
            result, form = lower_quantizer(graph, quantizer, found.arithmetic.quantizer(quantizer))
            types[result] = form.data_type
        annotate_data_types(graph, types)
        module.opsets.setdefault(QONNX_DOMAIN, 1)
        write_known_types(graph)
        return True


def write_known_types(graph: Graph) -> None:
    """Have the file name the type of every value: no reader infers types after operators that ONNX does not know."""
    for node in graph:
        for value in node.results:
            value.declared = None


def round_biases(graph: Graph, found: Legalization) -> None:
    """Put the bias of every quantized layer on the grid of its sums, as float constants."""
    for layer in list(quantized_layers(graph)):
        round_bias(graph, layer, found)


def lower_quantizer(graph: Graph, quantizer: FakeQuant, record: QuantizerArithmetic) -> tuple[Value, QonnxForm]:
    """Replace one quantizer by one of QONNX: the value that its users read now, and the form."""
    source = quantizer.source
    if source.is_constant:
        codes = record.codes
        if codes is None:
            raise ExportError(
                f"quantizer {quantizer.name!r}: its levels are not multiples of a scale, and QONNX has no other: "
                "use a uniform scheme"
            )
        form, shape = weight_form(record, codes), scale_shape(quantizer, source, codes.scale.size)
        exact = codes.centred(quantizer.granularity.axis).astype(np.float32) * codes.scale.reshape(shape)
        data = graph.add_constant(f"{source.name}.on_grid", Tensor.of(exact.astype(np.float32)))
    else:
        form, data = activation_form(record), source
    made = _quantizer(graph, quantizer, data, form)
    quantizer.result.replace_all_uses_with(made)
    graph.erase(quantizer.node)
    if source.is_constant:
        name = source.name
        remove_unused(source)
        if not source.uses:
            data.name = name
    return made, form


def _quantizer(graph: Graph, quantizer: FakeQuant, data: Value, form: QonnxForm) -> Value:
    shape = scale_shape(quantizer, quantizer.source, form.scale.size)
    made = Node(
        form.quantizer,
        (data, graph.add_constant(f"{quantizer.name}.scale", Tensor.of(form.scale.reshape(shape)))),
        (f"{quantizer.name}.quantized",),
        domain=QONNX_DOMAIN,
        name=quantizer.name,
    )
    if form.quantizer == "Quant":
        zero = graph.add_constant(f"{quantizer.name}.zero_point", Tensor.of(np.float32(0)))
        bits = graph.add_constant(f"{quantizer.name}.bits", Tensor.of(np.float32(form.bits)))
        made.set_inputs((*made.inputs, zero, bits))
        for name, value in (("signed", int(form.signed)), ("narrow", int(form.narrow)), ("rounding_mode", "ROUND")):
            made.set_attribute(name, value)
    graph.insert(made, before=quantizer.node)
    made.result.type = float_type(data)
    if form.bounds is None:
        return made.result
    low, high = (
        graph.add_constant(f"{quantizer.name}.{label}", Tensor.of(np.float32(bound)))
        for label, bound in zip(("low", "high"), form.bounds, strict=True)
    )
    clip = graph.insert(
        Node("Clip", (made.result, low, high), (f"{quantizer.name}.clipped",), name=f"{quantizer.name}.clip"),
        before=quantizer.node,
    )
    clip.result.type = float_type(data)
    return clip.result


def scale_shape(quantizer: FakeQuant, value: Value, channels: int) -> tuple[int, ...]:
    """Return the shape in which a scale per channel broadcasts against a tensor; () for one scale."""
    if channels == 1:
        return ()
    shape = value.shape
    if shape is None:
        raise ExportError(
            f"quantizer {quantizer.name!r}: scales per channel need the tensor's rank: run infer-types first"
        )
    sizes = tuple(size if isinstance(size, int) else -1 for size in shape)
    return channel_shape(sizes, channels, quantizer.granularity.axis)


def float_type(value: Value) -> Type:
    """Return the type of a value as plain float32; unknown stays unknown."""
    return value.type.with_element(DType.FLOAT32) if isinstance(value.type, TensorType) else value.type
