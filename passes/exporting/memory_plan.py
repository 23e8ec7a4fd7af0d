"""Where activations lie in memory: lifetimes in execution order, byte offsets, and the peak.

An activation lives from the node that writes it to the last node that reads it. Two that live at the same time may not
overlap. Offsets are found greedily: Pisarchyk & Lee 2020, "Efficient Memory Management for Deep Neural Net Inference",
section 5, by size, by breadth and by time of writing, whichever needs least; no plan can need less than the bytes alive
at the busiest step.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from qir.backends.costs.layers.layer_shapes import elements_of
from qir.fake_quant import FakeQuant
from qir.graph import Graph, Node, Value
from qir.ops import op_of
from qir.tracing import quantizer_of

FLOAT_BITS = 32


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
    """Return names of the tensors that have to be kept between nodes and whose size is unknown, in order."""
    return [value.name for value, _ in _lives(graph) if elements_of(value, 1) is None]


def activations(graph: Graph, *, batch: int = 1, storage_widths: Sequence[int] = ()) -> list[Buffer] | None:
    """Return the tensors that have to be kept between nodes, in the order in which they are written.

    Args:
        graph: a network with fake-quant nodes.
        batch: size of an unknown first dimension.
        storage_widths: widths that memory stores; a width in between takes the next larger one.

    Returns:
        None when a size is unknown (`unknown_sizes`).
    """
    found = []
    for (value, quantizer), (first, last) in _lives(graph).items():
        elements = elements_of(value, batch)
        if elements is None:
            return None
        bits = FLOAT_BITS if quantizer is None else _width(quantizer)
        stored = next((width for width in sorted(storage_widths) if width >= bits), bits)
        name = "" if quantizer is None else quantizer.name
        found.append(Buffer(value.name, name, bits, elements, -(-elements * stored // 8), first, last))
    return sorted(found, key=lambda buffer: (buffer.first, buffer.name, buffer.quantizer))


def _lives(graph: Graph) -> dict[tuple[Value, Node | None], list[int]]:
    """Return the first and last step of every value that is kept, in the form of each quantizer that it is read in."""
    order = execution_order(graph)
    steps = {node: step for step, node in enumerate(order)}
    readers = _Readers(steps, len(order) - 1)
    for node in reversed(list(graph)):
        for value in node.results:
            readers.of(value)
    written = [(value, 0) for value in graph.inputs]
    written += [(value, step) for node, step in steps.items() for value in node.results]
    lives: dict[tuple[Value, Node | None], list[int]] = {}
    for value, first in written:
        found = quantizer_of(value)
        own = None if found is None else found.node
        for quantizer, last in ({} if value.constant is not None else readers.of(value)).items():
            life = lives.setdefault((value, quantizer or own), [first, first])
            life[1] = max(life[1], last)
    return lives


class _Readers:
    """The last step that reads each value, in each form; values are asked from the last one to the first.

    Args:
        steps: position of each node in the execution order.
        end: position at which outputs are read.
    """

    def __init__(self, steps: dict[Node, int], end: int) -> None:
        self._steps, self._end = steps, end
        self._known: dict[Value, dict[Node | None, int]] = {}

    def of(self, value: Value) -> dict[Node | None, int]:
        """Return the last reader of a value for each quantizer in between, seen through views and fused activations."""
        if value not in self._known:
            found: dict[Node | None, int] = {}
            for quantizer, step in self._read(value):
                found[quantizer] = max(found.get(quantizer, 0), step)
            self._known[value] = found
        return self._known[value]

    def _read(self, value: Value) -> Iterator[tuple[Node | None, int]]:
        for use in value.uses:
            user = use.node
            if user.is_return or user in self._steps:
                yield None, self._steps.get(user, self._end)
                continue
            own = user if user.is_fake_quant else None
            for result in user.results:
                yield from ((quantizer or own, step) for quantizer, step in self.of(result).items())


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


def _width(quantizer: Node) -> int:
    bits = FakeQuant(quantizer).bits
    return bits if isinstance(bits, int) else max(bits)


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
