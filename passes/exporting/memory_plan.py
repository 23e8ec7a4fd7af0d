"""Where activations lie in memory: lifetimes in execution order, byte offsets, and the peak.

An activation lives from the node that writes it to the last node that reads it. Two that live at the same time may not
overlap. Offsets are found greedily: Pisarchyk & Lee 2020, "Efficient Memory Management for Deep Neural Net Inference",
section 5, by size, by breadth and by time of writing, whichever needs least; no plan can need less than the bytes alive
at the busiest step.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from qir.backends.costs.layers.layer_shapes import elements_of
from qir.graph import Graph, Node, Value
from qir.ops import op_of


@dataclass(frozen=True, slots=True)
class Buffer:
    """A tensor in memory.

    Attributes:
        name: of the tensor.
        quantizer: name of the quantizer whose codes are stored; empty = float32 values.
        bits: width of an element.
        elements: of the tensor.
        bytes: packed size.
        first, last: positions in the execution order of the node that writes it and the last one that reads it; inputs
            are written by the first node, outputs read by the last.
    """

    name: str
    quantizer: str
    bits: int
    elements: int
    bytes: int
    first: int
    last: int

    def meets(self, other: Buffer) -> bool:
        """Return whether both live at the same time."""
        return self.first <= other.last and other.first <= self.last


@dataclass(frozen=True, slots=True)
class Plan:
    """Byte offset of every buffer.

    Attributes:
        offsets: in the order of the buffers.
        peak: bytes that the plan needs.
        lower_bound: most bytes alive at one step: no plan needs less.
        order: greedy order that found it: `size`, `breadth` or `time`.
    """

    offsets: tuple[int, ...]
    peak: int
    lower_bound: int
    order: str


def plan_memory(buffers: Sequence[Buffer]) -> Plan:
    """Return offsets without overlap of buffers that live at the same time."""
    breadth = _breadth(buffers)
    busiest = [max(breadth[b.first : b.last + 1], default=0) for b in buffers]
    indices = range(len(buffers))
    orders = {
        "size": sorted(indices, key=lambda i: (-buffers[i].bytes, i)),
        "breadth": sorted(indices, key=lambda i: (-busiest[i], -buffers[i].bytes, i)),
        "time": sorted(indices, key=lambda i: (buffers[i].first, i)),
    }
    plans = {name: _place(buffers, order) for name, order in orders.items()}
    name = min(plans, key=lambda key: _peak(buffers, plans[key]))
    return Plan(tuple(plans[name]), _peak(buffers, plans[name]), max(breadth, default=0), name)


def execution_order(graph: Graph) -> list[Node]:
    """Return the nodes that do something when the network runs, in order.

    Left out are quantizers and activations that fuse into what they follow, views, and what constants give.
    """
    fixed = set[Value]()
    order = []
    for node in graph:
        if node.operands and all(value.constant is not None or value in fixed for value in node.operands):
            fixed.update(node.results)
        elif not node.is_return and _source(node) is None:
            order.append(node)
    return order


def unknown_sizes(graph: Graph) -> list[str]:
    """Return names of the inputs and of the steps' results that something reads and whose size is unknown, in order."""
    results = (value for node in execution_order(graph) for value in node.results)
    return [value.name for value in (*graph.inputs, *results) if value.uses and elements_of(value, 1) is None]


def _source(node: Node) -> Value | None:
    """Return the value in whose place the result of a quantizer, view or fused activation is stored.

    None for others.
    """
    facts = op_of(node)
    if not node.inputs or (source := node.inputs[0]) is None:
        return None
    if node.is_fake_quant or facts.is_view:
        return source
    fuses = facts.fuses_into_producer(node) and source.producer is not None and len(source.uses) == 1
    return source if fuses else None


def _breadth(buffers: Sequence[Buffer]) -> list[int]:
    """Return bytes alive at every step."""
    total = [0] * (max((buffer.last for buffer in buffers), default=-1) + 1)
    for buffer in buffers:
        for step in range(buffer.first, buffer.last + 1):
            total[step] += buffer.bytes
    return total


def _place(buffers: Sequence[Buffer], order: Sequence[int]) -> list[int]:
    """Place each buffer in turn in the smallest gap that holds it, between those that live with it, else after them."""
    offsets = [0] * len(buffers)
    placed: list[int] = []
    for index in order:
        buffer = buffers[index]
        end, best, gap = 0, -1, -1
        for other in sorted((i for i in placed if buffers[i].meets(buffer)), key=lambda i: offsets[i]):
            room = offsets[other] - end
            if room >= buffer.bytes and (best < 0 or room < gap):
                best, gap = end, room
            end = max(end, offsets[other] + buffers[other].bytes)
        offsets[index] = end if best < 0 else best
        placed.append(index)
    return offsets


def _peak(buffers: Sequence[Buffer], offsets: Sequence[int]) -> int:
    return max((offset + buffer.bytes for offset, buffer in zip(offsets, buffers, strict=True)), default=0)
