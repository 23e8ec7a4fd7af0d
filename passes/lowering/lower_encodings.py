"""Lowering to a float network with AIMET encodings (version 1.0.0): what QNN, SNPE and QAIRT converters read.

Quantizers leave the graph; their grids become entries by the name of the tensor. Weights lie on their grids already,
so that a wider integer type with the same scale holds them exactly. A code q of an encoding is unsigned:
value = (q + offset) * scale, 0 <= q < 2^bw.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from qir.errors import ExportError
from qir.fake_quant import FakeQuant
from qir.graph import Graph, Node, Value
from qir.module import Module
from qir.ops import op_of
from qir.passes.analysis.quantized_layers import quantized_layers
from qir.passes.infrastructure.contract import Pass, PassContext
from qir.passes.lowering.holdings import Holding
from qir.passes.lowering.legalize import legalization
from qir.passes.lowering.lower_float import round_bias
from qir.quantizers import kernels
from qir.tensor import Array, Tensor
from qir.types import code_range

VERSION = "1.0.0"

CLIPPED_BY_CODES = "clipped-by-codes"
"""Key in `Module.meta` of networks raised from codes: their files held no Relu and no Clip that codes make."""


@dataclass(frozen=True)
class LowerEncodings(Pass):
    """Take quantizers out of the graph and list their grids: the report is the content of the encodings file.

    Verified IR in, verified IR out; the network computes in float, on weights that lie on their grids and biases that
    lie on the grid of their layer's sums.
    """

    name: ClassVar[str] = "lower-encodings"

    def run(self, module: Module, context: PassContext) -> bool:
        """Lower the main graph; raises `ExportError` for two quantizers on one value that differ."""
        found = legalization(module, context)
        activations: dict[Value, dict[str, Any]] = {}
        parameters: dict[Value, dict[str, Any]] = {}
        for layer in list(quantized_layers(module.graph)):
            round_bias(module.graph, layer, found)
        for quantizer in map(FakeQuant, module.graph.fake_quants()):
            holding = found.holdings[quantizer.name]
            table = parameters if quantizer.is_weight else activations
            source = _weight(module.graph, quantizer, holding) if table is parameters else quantizer.source
            entry = _encoding(quantizer, holding)
            if table.setdefault(source, entry) != entry:
                raise ExportError(
                    f"quantizer {quantizer.name!r}: value {source.name!r} has another quantizer too, and encodings "
                    "hold one a value: give both the same width"
                )
            quantizer.result.replace_all_uses_with(source)
            module.graph.erase(quantizer.node)
        if module.meta.get(CLIPPED_BY_CODES):
            activations = {_clipped(module.graph, value, entry): entry for value, entry in activations.items()}
        context.reports[self.name] = {
            "version": VERSION,
            "producer": "qir",
            "quantizer_args": {},
            "activation_encodings": _listed(module.graph, activations),
            "param_encodings": _listed(module.graph, parameters),
        }
        return True


def _clipped(graph: Graph, value: Value, entry: dict[str, Any]) -> Value:
    """Return a value limited to its grid, as codes limit it.

    A file of codes holds no Relu and no Clip that they make.
    """
    node = value.producer
    if node is None or op_of(node).is_activation:
        return value
    scale, offset = np.float32(entry["scale"][0]), entry["offset"][0]
    bounds = [np.float32(code * scale) for code in (offset, offset + 2 ** entry["bw"] - 1)]
    low, high = (graph.add_constant(graph.clock.unique_name(f"{value.name}.bound"), Tensor.of(b)) for b in bounds)
    made = Node("Clip", (), (graph.clock.unique_name(f"{value.name}.clipped"),), name=f"{value.name}.clip")
    graph.insert(made, after=node)
    made.result.type = value.type
    value.replace_all_uses_with(made.result)
    made.set_inputs((value, low, high))
    return made.result


def _listed(graph: Graph, entries: dict[Value, dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the entries by the names that the values have in the file."""
    from qir.onnx_io.graph_writer import written_outputs

    outputs = written_outputs(graph)
    named = [{"name": outputs.get(value, value.name), **entry} for value, entry in entries.items()]
    return sorted(named, key=lambda entry: str(entry["name"]))


def encodings_text(encodings: Mapping[str, Any]) -> str:
    """Return the text of the encodings file, from what `lower-encodings` reports."""
    return json.dumps(encodings, indent=1) + "\n"


def _weight(graph: Graph, quantizer: FakeQuant, holding: Holding) -> Value:
    """Return the weight on its grid, in place of the float one; its own constant where others read the float one."""
    source, codes = quantizer.source, holding.codes
    if codes is None:
        raise ExportError(
            f"quantizer {quantizer.name!r}: its levels are not multiples of a step, and encodings hold scale and "
            "offset: profile 'qcdq' looks them up"
        )
    shape = kernels.channel_shape(codes.values.shape, codes.scale.size, quantizer.granularity.axis)
    values = ((codes.values - codes.zero_point.reshape(shape)).astype(np.float32) * codes.scale.reshape(shape)).astype(
        np.float32
    )
    if all(user.is_fake_quant for user in source.users) and len({user.name for user in source.users}) == 1:
        source.constant = Tensor.of(values)
        return source
    return graph.add_constant(f"{quantizer.name}.on_grid", Tensor.of(values))


def _encoding(quantizer: FakeQuant, holding: Holding) -> dict[str, Any]:
    scale, zero, signed, bits = _grid(quantizer, holding)
    lowest = code_range(bits, signed=signed)[0] if bits > 1 else -1 if signed else 0
    return {
        "dtype": "INT",
        "bw": bits,
        "is_sym": bool(signed and not zero.any()),
        "enc_type": "PER_CHANNEL" if scale.size > 1 else "PER_TENSOR",
        "scale": [float(s) for s in scale],
        "offset": [int(lowest - z) for z in np.broadcast_to(zero, scale.shape)],
    }


def _grid(quantizer: FakeQuant, holding: Holding) -> tuple[Array, Array, bool, int]:
    """Scale, zero point, signedness and width of an encoding: weights have the width of their container."""
    if holding.codes is not None:
        return holding.codes.scale, holding.codes.zero_point, True, holding.container.bits
    grid, bits = holding.grid, quantizer.bits
    if grid is None or not isinstance(bits, int):
        raise ExportError(f"quantizer {quantizer.name!r}: encodings hold one scale and one width for an activation")
    return grid.scale, grid.zero_point, grid.low_code < 0, bits
