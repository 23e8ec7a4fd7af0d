"""What a network is made of, and what of it can be quantized: asked before any work is done."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from math import prod
from typing import TYPE_CHECKING

from qir.errors import QirError
from qir.graph import Graph, Node, Value
from qir.labels import unique_labels
from qir.module import Module
from qir.ops import op_of
from qir.passes.analysis.quantized_operands import operand_quantizers
from qir.passes.infrastructure.run_passes import run_passes
from qir.passes.insertion.insert_fake_quant import InsertFakeQuant
from qir.passes.simplify.canonicalize import SIMPLIFY
from qir.tracing import quantizer_of

if TYPE_CHECKING:
    from qir.backends.costs.target import Target, TargetLike


@dataclass(frozen=True)
class InspectedLayer:
    """A node that multiplies and accumulates.

    Attributes:
        name, op: of the node.
        input, output: element type and sizes, `?` where one is open: `float32 ?x3x32x32`.
        weights: number of its weights, biases not counted.
        macs: multiply-accumulates; None where a size is not known.
        quantizers: names of the quantizers on its operands; empty where it stays float.
        reason: why it stays float, whole or in part, else empty.
    """

    name: str
    op: str
    input: str
    output: str
    weights: int
    macs: int | None
    quantizers: tuple[str, ...] = ()
    reason: str = ""


@dataclass(frozen=True)
class OpKind:
    """All nodes of one op besides the layers, after simplification.

    Attributes:
        op: type of the op.
        count: how many there are.
        on_grids: how many read quantized values.
        reason: why the others compute on floats.
    """

    op: str
    count: int
    on_grids: int
    reason: str = ""


@dataclass(frozen=True)
class Inspection:
    """What a network is made of.

    Attributes:
        ops: op → number of nodes in the file, subgraphs included.
        inputs, outputs: name → element type and sizes, `?` where one is open.
        opset: version of ONNX's operator set.
        constants: numbers that the file holds.
        layers: nodes that multiply and accumulate, after simplification (BatchNorm folded, constants folded).
        others: the other ops, after simplification.
        quantizers: quantizers that the network would get.
        refused: why nothing of it can be quantized, else empty.
    """

    ops: Mapping[str, int]
    inputs: Mapping[str, str]
    outputs: Mapping[str, str]
    opset: int
    constants: int
    layers: tuple[InspectedLayer, ...] = ()
    others: tuple[OpKind, ...] = ()
    quantizers: tuple[str, ...] = field(default=())
    refused: str = ""

    @property
    def macs(self) -> int:
        """Multiply-accumulates of the layers whose sizes are known."""
        return sum(layer.macs or 0 for layer in self.layers)

    @property
    def macs_on_codes(self) -> float:
        """Share of the known multiply-accumulates whose operands are quantized, 0 to 1."""
        on_codes = sum(layer.macs or 0 for layer in self.layers if layer.quantizers)
        return on_codes / self.macs if self.macs else 0.0


def inspect(module: Module, target: TargetLike | None = None) -> Inspection:
    """Look at a network: ops, sizes, weights, multiply-accumulates, what can be quantized, and why the rest cannot.

    Quantizers are inserted into a simplified copy, as `prepare` does it; nothing is calibrated, no data are needed.

    Args:
        module: float network; not changed.
        target: hardware whose rules decide what is quantized, the general rules without it.
    """
    graph = module.graph
    found = Inspection(
        ops=dict(Counter(node.op for node in graph.walk()).most_common()),
        inputs={value.name: _type(value) for value in graph.inputs},
        outputs={value.name: _type(value) for value in graph.outputs if value is not None},
        opset=module.opsets.get("", 0),
        constants=sum(_size(value) for value in graph.constants),
    )
    copy, reports = module.clone(), dict[str, dict[str, str]]()
    refused = ""
    try:
        run_passes(copy, f"widen-floats,{SIMPLIFY}")
        run_passes(copy, InsertFakeQuant.name, target=_target(target), reports=reports)
    except QirError as error:
        refused = str(error)
    return _looked_at(found, copy.graph, reports.get(InsertFakeQuant.name, {}), refused)


def _target(target: TargetLike | None) -> Target | None:
    from qir.backends.costs.target import as_target

    return None if target is None else as_target(target)


def _looked_at(found: Inspection, graph: Graph, left_float: Mapping[str, str], refused: str) -> Inspection:
    labels = unique_labels(graph)
    layers = tuple(
        _layer(node, labels[node], left_float)
        for node in graph.walk()
        if op_of(node).is_expensive or op_of(node).float_kernel(node) is not None
    )
    return Inspection(
        found.ops,
        found.inputs,
        found.outputs,
        found.opset,
        found.constants,
        layers,
        _others(graph),
        tuple(node.name for node in graph.fake_quants()),
        refused,
    )


def _layer(node: Node, label: str, left_float: Mapping[str, str]) -> InspectedLayer:
    quantizers = tuple(quantizer.name for quantizer in operand_quantizers(node))
    unknown = "" if quantizers else "nothing of it is quantized"
    return InspectedLayer(
        label,
        node.op,
        _type(node.input(0)),
        _type(node.results[0] if node.results else None),
        sum(_size(value) for value in node.inputs[1:2] if value is not None),
        op_of(node).macs(node, batch=1),
        quantizers,
        left_float.get(label, unknown),
    )


def _others(graph: Graph) -> tuple[OpKind, ...]:
    """Return ops besides the layers: how many read quantized values, and why the others do not."""
    nodes = [
        node
        for node in graph.walk()
        if not (node.is_fake_quant or node.is_return or op_of(node).is_expensive or op_of(node).float_kernel(node))
    ]
    on_grids = Counter(node.op for node in nodes if any(quantizer_of(value) is not None for value in node.operands))
    first = {node.op: node for node in reversed(nodes)}
    return tuple(
        OpKind(op, count, on_grids[op], "" if on_grids[op] == count else _why_float(first[op]))
        for op, count in Counter(node.op for node in nodes).most_common()
    )


def _why_float(node: Node) -> str:
    facts = op_of(node)
    if not facts.is_known:
        return "the op is not known: it is kept as it is"
    if facts.is_view or facts.is_movement:
        return "it moves values: it keeps the grid of what feeds it"
    if facts.has_subgraphs:
        return "what runs inside stays float"
    if facts.is_activation:
        return "it is fused into the layer before it; its result is quantized where a layer reads it"
    return "it computes on floats; its result is quantized where a layer reads it"


def _size(value: Value) -> int:
    """Return elements of a constant, seen through its quantizer; 0 of anything else."""
    quantizer = quantizer_of(value)
    held = value if quantizer is None else quantizer.source
    return prod(held.constant.shape) if held.constant is not None and held.is_constant else 0


def _type(value: Value | None) -> str:
    """Return the element type and sizes, `?` where one is open: `float32 ?x3x32x32`."""
    if value is None or value.dtype is None:
        return "unknown"
    sizes = (
        None if value.shape is None else "x".join(str(size) if isinstance(size, int) else "?" for size in value.shape)
    )
    return f"{value.dtype.label} {sizes or 'scalar' if sizes is not None else 'of unknown shape'}"
