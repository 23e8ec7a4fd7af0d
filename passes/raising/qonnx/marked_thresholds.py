"""FINN-ONNX files of the profile `finn-thresholds`, raised into fake-quant form.

Thresholds tell codes from sums, but not the scales they come from: the file's own marks do
(`qir.passes.lowering.qonnx.threshold_marks`). Files of other tools are read where a MultiThreshold quantizes real
values in equal steps (`qir.passes.raising.qonnx.qonnx`).
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from qir.errors import QirError
from qir.fake_quant import FakeQuant
from qir.graph import Graph, Node, Value
from qir.ops import op_of
from qir.passes.analysis.affine import Reject
from qir.passes.analysis.constants import array_of, frozen, is_standard
from qir.passes.lowering.qonnx.threshold_marks import ACTIVATION, LAYER
from qir.passes.raising.grids import CodeGrid
from qir.passes.raising.marked import make_quantizer
from qir.passes.raising.qdq import twin_type
from qir.passes.raising.state import RaiseState, weight_spec
from qir.rewriting.engine import Rewriter
from qir.support.json_text import parse_json
from qir.tensor import Array


def raise_thresholds(graph: Graph, state: RaiseState) -> None:
    """Put float layers and fake-quant nodes in the place of marked integer layers and MultiThreshold nodes.

    One walk in the graph's order: a layer's float form needs the scales of its data and its weights, which marks alone
    say, so that no form of the operators around it tells where a rule would apply.
    """
    if not any(ACTIVATION in node.metadata for node in graph):
        return
    raising = _Raising(graph, state)
    for node in graph.nodes:
        try:
            raising.step(node)
        except (KeyError, TypeError, ValueError, IndexError, QirError) as error:
            state.leave(node, f"its mark cannot be read: {error}")


@dataclass
class _Raising:
    """What is known while the graph is walked.

    Attributes:
        twins: for codes, the real value on the grid and its scale.
        sums: for the sum of a layer, the float layer's result.
        weights: quantizers of weights by name.
    """

    graph: Graph
    state: RaiseState
    twins: dict[Value, tuple[Value, np.float32]] = field(default_factory=dict)
    sums: dict[Value, Value] = field(default_factory=dict)
    weights: dict[str, Node] = field(default_factory=dict)
    rewriter: Rewriter = field(default_factory=lambda: Rewriter("raise-thresholds"))

    def step(self, node: Node) -> None:
        """Raise one node."""
        if ACTIVATION in node.metadata:
            self._activation(node, parse_json(node.metadata[ACTIVATION]))
        elif LAYER in node.metadata:
            self._layer(node, parse_json(node.metadata[LAYER]))
        elif is_standard(node, "Mul"):
            self._scaling(node)
        else:
            self._keeper(node)

    def _activation(self, node: Node, entry: dict[str, Any]) -> None:
        source = node.operands[0]
        if source in self.sums:
            source = self._activated(self.sums[source], entry["activations"], node)
        made = self.rewriter.insert(make_quantizer(source, entry["quantizer"], self.state), before=node)
        scale = FakeQuant(made).grid().scale
        self.twins[node.result] = made.result, scale[0]
        if (scale == 1).all():
            plain = [use for use in node.result.uses if LAYER not in use.node.metadata and use.node is not made]
            self.rewriter.redirect(plain, made.result)

    def _activated(self, value: Value, activations: list[list[Any]], place: Node) -> Value:
        """After the activations that the thresholds include: [op, low, high] each, bounds None where there is none."""
        for op, *bounds in activations:
            constants = [
                None if b is None else self.graph.add_constant(f"{place.name}.bound", frozen(np.asarray(b, np.float32)))
                for b in bounds
            ]
            made = Node(op, (value, *constants))
            made.result.type = twin_type(value)
            value = self.rewriter.insert(made, before=place).result
        return value

    def _layer(self, node: Node, entry: dict[str, Any]) -> None:
        index = int(entry["weight_index"])
        codes = array_of(node.input(index))
        data = node.input(1 - index)
        if codes is None or data is None or data not in self.twins:
            raise QirError("its operands are not codes")
        scale = np.asarray(entry["scale"], np.float32)
        weight = self._weight(codes.T if entry["turned"] else codes, scale, entry["weight"], node)
        twin, step = self.twins[data]
        operands = [twin, weight] if index == 1 else [weight, twin]
        if entry["bias"] is not None:
            product = (step * scale).astype(np.float32).astype(np.float64)
            values = (np.asarray(entry["bias"], np.float64) * product).astype(np.float32)
            operands.append(self.graph.add_constant(f"{node.name}.bias", frozen(values)))
        made = Node(entry["op"], operands, name=node.name, attributes=entry["attributes"])
        made.result.type = twin_type(node.result)
        self.rewriter.insert(made, before=node)
        self.sums[node.result] = made.result

    def _weight(self, codes: Array, scale: Array, entry: dict[str, Any], place: Node) -> Value:
        """Return the float weight under its quantizer, one for all layers that read it."""
        name, bits = str(entry["name"]), entry["bits"]
        if name not in self.weights:
            axis = entry["axis"] if scale.size > 1 else None
            grid = CodeGrid(scale, np.zeros(scale.size, np.int64), axis, -(2**15), 2**15 - 1)
            spec = weight_spec(grid, codes, bits if isinstance(bits, int) else max(bits))
            if isinstance(spec, Reject):
                raise QirError(spec.reason)
            constant = self.graph.add_constant(name, frozen(grid.values(codes)))
            made = self.state.quantizer(constant, replace(spec, axis=entry["axis"]), name)
            self.weights[name] = self.rewriter.insert(made, before=place)
        return self.weights[name].result

    def _scaling(self, node: Node) -> None:
        """Codes, or a layer's sum with its bias, times their scale: the real value."""
        value = node.operands[0]
        if value in self.twins:
            self.rewriter.redirect(node.result.uses, self.twins[value][0])
            return
        total = (
            value.producer.operands[0] if value.producer is not None and is_standard(value.producer, "Add") else value
        )
        if total in self.sums:
            self.rewriter.redirect(node.result.uses, self.sums[total])

    def _keeper(self, node: Node) -> None:
        """Run an operator that keeps the grid of codes on the real value."""
        index = op_of(node).grid_operand(node)
        source = None if index is None else node.input(index)
        if index is None or source is None or source not in self.twins or any(u.is_return for u in node.result.users):
            return
        twin, scale = self.twins[source]
        inputs = list(node.inputs)
        inputs[index] = twin
        made = Node(node.op, inputs, domain=node.domain, attributes=dict(node.attributes))
        made.result.type = twin_type(node.result)
        self.rewriter.insert(made, before=node)
        self.twins[node.result] = made.result, scale
