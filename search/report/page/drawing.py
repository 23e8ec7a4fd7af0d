"""The network as the report draws it: its nodes in order, what each reads, and the quantizers on the way."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from qir.fake_quant import FakeQuant, quantizers
from qir.graph import Node, Value
from qir.module import Module
from qir.ops import op_of
from qir.tracing import quantizer_of
from qir.types import TensorType

BINS = 32
"""Bars of a weight's histogram."""

MOST_NODES = 2000
"""A longer network is drawn by its quantized layers alone."""


@dataclass(frozen=True)
class Step:
    """One node of the drawing; fake-quant nodes are none, they stand on the edges.

    Attributes:
        name: label of the node.
        op: its op type.
        shape: shape of its first result as text.
        reads: numbers of the steps that it reads, in the order of its operands; -1 for an input of the network.
        quantized: quantizer of each of them, empty where it is read in float.
        weight: quantizer of its weight, empty without one.
    """

    name: str
    op: str
    shape: str
    reads: tuple[int, ...]
    quantized: tuple[str, ...]
    weight: str = ""


@dataclass(frozen=True)
class Histogram:
    """How a constant's values are spread: counts of equal parts between its least and its largest value."""

    low: float
    high: float
    counts: tuple[int, ...]


@dataclass(frozen=True)
class Drawing:
    """What the report shows of a network.

    Attributes:
        steps: nodes in order.
        schemes: quantizer → its scheme at the chosen width.
        weights: quantizer of a weight → its histogram.
    """

    steps: tuple[Step, ...] = ()
    schemes: dict[str, str] = field(default_factory=dict)
    weights: dict[str, Histogram] = field(default_factory=dict)


def drawing_of(module: Module) -> Drawing:
    """Return the drawing of a network with fake-quant nodes; weights are read."""
    found = quantizers(module.graph)
    nodes = [node for node in module.graph if not node.is_fake_quant and not node.is_return]
    if len(nodes) > MOST_NODES:
        nodes = [node for node in nodes if op_of(node).quantizable(node) is not None]
    numbers = {result: number for number, node in enumerate(nodes) for result in node.results}
    return Drawing(
        tuple(_step(node, numbers) for node in nodes),
        {name: quantizer.scheme_name(_widest(quantizer)) for name, quantizer in found.items()},
        {name: histogram for name, quantizer in found.items() if (histogram := _histogram(quantizer)) is not None},
    )


def _step(node: Node, numbers: dict[Value, int]) -> Step:
    operands = op_of(node).quantizable(node)
    weight = None if operands is None or operands.weight is None else quantizer_of(node.input(operands.weight))
    own = weight if weight is not None and weight.source.constant is not None else None
    read = [(value, _float(value)) for value in node.operands if value.constant is None]
    read = [(value, source) for value, source in read if source in numbers or source.is_input]
    kind = node.results[0].type if node.results else None
    return Step(
        node.label,
        node.op,
        "x".join(map(str, kind.shape)) if isinstance(kind, TensorType) and kind.shape else "",
        tuple(numbers.get(source, -1) for _, source in read),
        tuple(getattr(quantizer_of(value), "name", "") for value, _ in read),
        "" if own is None else own.name,
    )


def _float(value: Value) -> Value:
    """Return the value under fake-quant nodes."""
    while (quantizer := FakeQuant.of(value)) is not None:
        value = quantizer.source
    return value


def _widest(quantizer: FakeQuant) -> int:
    return quantizer.bits if isinstance(quantizer.bits, int) else max(quantizer.bits)


def _histogram(quantizer: FakeQuant) -> Histogram | None:
    constant = quantizer.source.constant
    if constant is None or not constant.size:
        return None
    counts, edges = np.histogram(constant.numpy(), BINS)
    return Histogram(float(edges[0]), float(edges[-1]), tuple(map(int, counts)))
