"""The record of a network's arithmetic, and the analysis that keeps it until the network changes."""

from __future__ import annotations

from dataclasses import dataclass

from qir.fake_quant import FakeQuant, quantizers
from qir.graph import Graph
from qir.module import Module
from qir.ops import op_of
from qir.passes.analysis.arithmetic.layer import LayerArithmetic
from qir.passes.analysis.arithmetic.quantizer import QuantizerArithmetic
from qir.passes.analysis.arithmetic.rescaling import Rescaling, is_rescaling
from qir.passes.analysis.quantized_layers import QuantizedLayer, output_quantizer, quantized_layers
from qir.passes.infrastructure.contract import Analysis, PassContext
from qir.tracing import quantizer_of


class NetworkArithmetic:
    """The arithmetic of a network as it stands, each fact computed once, when it is first read.

    Quantizers are known by their names and layers by their results, so that the record serves copies of the network
    too: what lowers a copy reads what was decided about the original.

    Args:
        graph: a network with calibrated fake-quant nodes.

    Raises:
        QirError: two quantizers have one name, or one has none.

    Attributes:
        graph: the network's main graph.
        layers: its quantized layers, in order.
    """

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self._quantizers = {name: QuantizerArithmetic(found) for name, found in quantizers(graph).items()}
        self.layers = tuple(map(self._layer, quantized_layers(graph)))
        self._by_result = {record.layer.node.result.name: record for record in self.layers}

    def quantizer(self, quantizer: FakeQuant) -> QuantizerArithmetic:
        """Return the arithmetic of a quantizer of the network or of a copy."""
        return self._quantizers.setdefault(quantizer.name, QuantizerArithmetic(quantizer))

    def layer(self, layer: QuantizedLayer) -> LayerArithmetic:
        """Return the arithmetic of a layer of the network or of a copy."""
        return self._by_result[layer.node.result.name]

    def rescalings(self) -> tuple[Rescaling, ...]:
        """Return every node without weights that rescales codes, in order."""
        found = []
        for node in filter(is_rescaling, self.graph):
            count = 1 if op_of(node).is_average else len(node.inputs)
            operands = [quantizer_of(value) for value in node.inputs[:count]]
            output = output_quantizer(node)
            if output is not None and all(quantizer is not None for quantizer in operands):
                known = tuple(self.quantizer(quantizer) for quantizer in operands if quantizer is not None)
                found.append(Rescaling(node, known, self.quantizer(output)))
        return tuple(found)

    def _layer(self, layer: QuantizedLayer) -> LayerArithmetic:
        output = None if layer.output is None else self.quantizer(layer.output)
        return LayerArithmetic(layer, self.quantizer(layer.data), self.quantizer(layer.weight), output)


@dataclass(frozen=True)
class ArithmeticAnalysis(Analysis[NetworkArithmetic]):
    """The arithmetic of a module's main graph, kept until weights, ranges, bits or nodes change."""

    def compute(self, module: Module) -> NetworkArithmetic:
        """Return the record of the module as it is now; raises `QirError` as `NetworkArithmetic`."""
        return NetworkArithmetic(module.graph)


def arithmetic_of(module: Module, context: PassContext) -> NetworkArithmetic:
    """Return the record of a module's arithmetic, from the context's analyses."""
    return context.analyses.get(ArithmeticAnalysis(), module)
