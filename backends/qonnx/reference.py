"""Execution of QONNX and FINN-ONNX networks, which ONNX Runtime refuses.

ONNX's own operators run in ONNX Runtime, node by node; Quant, BipolarQuant and MultiThreshold in numpy.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from qir.backends.execution.evaluate import evaluate_constant, evaluate_control_flow, read_inside
from qir.backends.execution.executor import Run
from qir.backends.execution.session import OrtSession
from qir.backends.qonnx.kernels import bipolar_quant, multi_threshold, quant
from qir.cloning import clone_node
from qir.errors import DataError, QirError
from qir.graph import Graph, Node, Value
from qir.module import Module
from qir.ops.families.qonnx import QONNX_DOMAINS
from qir.tensor import Array, dtype_of
from qir.types import tensor_type


class QonnxReference:
    """Executes a network with QONNX quantizers, node by node.

    Args:
        module: network of Quant, IntQuant, BipolarQuant, MultiThreshold and ONNX's own operators.
        optimization: of ONNX Runtime for each node, as for `OrtSession`; qonnx itself runs it at `all`, where a mean is
            summed in another order.

    Raises:
        QirError: another operator of QONNX's domain, or a fake-quant node, stands in the network.
    """

    def __init__(self, module: Module, *, optimization: str = "disable") -> None:
        for node in module.graph:
            if node.is_fake_quant or (node.domain in QONNX_DOMAINS and _KERNELS.get(node.op) is None):
                raise QirError(f"node {node}: the executor of QONNX knows {', '.join(_KERNELS)} and ONNX's operators")
        self._module = module
        self._optimization = optimization
        self._sessions: dict[tuple[Node, tuple[tuple[str, tuple[int, ...]], ...]], OrtSession] = {}

    def run(self, feed: Mapping[str, Array], /) -> Run:
        """Return one batch; its quantizers give real numbers, so that there are no codes to show.

        Raises:
            DataError: an input is missing, or a kernel fails.
        """
        graph, values = self._module.graph, self.values(feed)
        named = zip(graph.output_names, graph.outputs, strict=True)
        return Run({name: values[value] for name, value in named if value is not None})

    def values(self, feeds: Mapping[str, Array]) -> dict[Value, Array]:
        """Return every value of the main graph.

        Raises:
            DataError: an input is missing, or a kernel fails.
        """
        graph = self._module.graph
        values = {value: value.constant.numpy() for value in graph.constants if value.constant is not None}
        for value in graph.inputs:
            if value.name in feeds:
                values[value] = np.asarray(feeds[value.name])
            elif value.constant is not None:
                values[value] = value.constant.numpy()
            else:
                raise DataError(f"input {value.name!r} is missing; given are {', '.join(feeds) or 'none'}")
        for node in graph:
            operands = [None if value is None else values[value] for value in node.inputs]
            found = self._branch(node, values) if node.subgraphs() else self._compute(node, operands)
            values.update(zip(node.results, found, strict=True))
        return values

    def _branch(self, node: Node, values: Mapping[Value, Array]) -> list[Array]:
        """Return the results of an If, Loop or Scan, whose subgraphs read values of the graph around them."""
        inside = (value for graph in node.subgraphs() for value in read_inside(graph))
        known = {value: values[value] for value in (*node.operands, *inside) if value in values}
        return evaluate_control_flow(node, known, opsets=self._module.opsets)

    def _compute(self, node: Node, operands: list[Array | None]) -> list[Array]:
        if node.domain in QONNX_DOMAINS:
            return [_KERNELS[node.op](node, [array for array in operands if array is not None])]
        variable = [value for value in dict.fromkeys(node.operands) if not value.is_constant]
        if not variable:
            return evaluate_constant(node, operands, opsets=self._module.opsets)
        by_value = dict(zip(node.inputs, operands, strict=True))
        feeds = {value: array for value in variable if (array := by_value[value]) is not None}
        found = self._session(node, feeds).run({f"operand{i}": array for i, array in enumerate(feeds.values())})
        return list(found.values())

    def _session(self, node: Node, feeds: Mapping[Value, Array]) -> OrtSession:
        """Return a network of one node whose inputs are the operands that are not constants.

        Made once for each shape.
        """
        key = (node, tuple((str(array.dtype), array.shape) for array in feeds.values()))
        if key not in self._sessions:
            graph = Graph("node")
            mapped = {}
            for index, (value, array) in enumerate(feeds.items()):
                mapped[value] = graph.add_input(f"operand{index}", tensor_type(dtype_of(array.dtype), array.shape))
            for value in node.operands:
                if value.is_constant and value not in mapped:
                    mapped[value] = graph.add_constant(value.name, value.constant)
            made = graph.insert(clone_node(node, mapped))
            graph.set_outputs(made.results, [f"result{index}" for index in range(len(made.results))])
            module = Module(graph, opsets=self._module.opsets, ir_version=self._module.ir_version)
            self._sessions[key] = OrtSession(module, optimization=self._optimization)
        return self._sessions[key]


def _quant(node: Node, operands: list[Array]) -> Array:
    x, scale, zero_point, bits = operands
    return quant(
        x,
        scale,
        zero_point,
        bits,
        signed=bool(node.attribute("signed", 1)),
        narrow=bool(node.attribute("narrow", 0)),
        rounding=str(node.attribute("rounding_mode", "ROUND")),
    )


def _multi_threshold(node: Node, operands: list[Array]) -> Array:
    layout = str(node.attribute("data_layout", ""))
    return multi_threshold(
        operands[0],
        operands[1],
        out_scale=node.attribute("out_scale", 1.0),
        out_bias=node.attribute("out_bias", 0.0),
        axis=layout.index("C") if "C" in layout else 2 if operands[0].ndim == 3 else 1,
    )


_KERNELS = {
    "Quant": _quant,
    "IntQuant": _quant,
    "BipolarQuant": lambda _, operands: bipolar_quant(*operands),
    "MultiThreshold": _multi_threshold,
}
