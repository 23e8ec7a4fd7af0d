"""A network that keeps what unchanged layers computed.

What a node computes depends on the input and on the bits of the quantizers above it, its cone. Two policies that agree
on a cone share its result. Kept are the results that a node with a larger cone reads (a prefix of layers ends there)
and the outputs; all is bound to a tag that stands for the input, and dropped where parameters change.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from copy import copy
from itertools import count
from typing import Any

import torch

from qir.backends.execution.affine_fit import correctable
from qir.backends.torch.graph import GraphPlan, Kernel, Values
from qir.backends.torch.module import TorchModule
from qir.backends.training.affine_correction import AffineCorrection, fit_affine_correction, pre_activations
from qir.fake_quant import FakeQuant
from qir.graph import Node, Value
from qir.memory import memory_budget
from qir.module import Module
from qir.passes.analysis.quantized_layers import quantized_layers
from qir.policy import Bits

MEMORY = 1 << 30
"""Bytes of results that are kept at most, where the memory budget leaves as many."""

_MOST_MET = 1_000_000

Signature = tuple[Bits, ...] | tuple[tuple[FakeQuant, Bits], ...]
Result = torch.Tensor | tuple[torch.Tensor, ...]


class Remembered:
    """Results by key, at most `limit` bytes and what the memory budget leaves.

    Those that were not used for longest go first. Once a quarter of that is taken, a result is kept when it is computed
    for the second time: most prefixes of a search come once, and keeping all would cost more than it saves. What was
    used since the last `turn` never goes: a scan over more batches than fit keeps the first ones instead of none.

    Attributes:
        hits: results that were found.
        bytes: what is kept now.
    """

    def __init__(self, limit: int = MEMORY) -> None:
        self.limit = memory_budget().share(limit)
        self.hits = 0
        self.bytes = 0
        self._kept: OrderedDict[Any, tuple[Result, int]] = OrderedDict()
        self._turn: dict[Any, int] = {}
        self._met: set[int] = set()
        self._now = 0

    def turn(self) -> None:
        """Begin a new policy."""
        self._now += 1

    def clear(self) -> None:
        """Forget everything."""
        self._kept.clear()
        self._turn.clear()
        self._met.clear()
        self.bytes = 0

    def get(self, key: Any) -> Result | None:
        """Return the result of a key, or None."""
        found = self._kept.get(key)
        if found is None:
            return None
        self._kept.move_to_end(key)
        self._turn[key] = self._now
        self.hits += 1
        return found[0]

    def put(self, key: Any, result: Result, *, once: bool = False) -> None:
        """Keep a result, if there is room and it came before (or `once` is enough)."""
        parts = result if isinstance(result, tuple) else (result,)
        size = sum(part.numel() * part.element_size() for part in parts)
        if not once and 4 * (self.bytes + size) > self.limit and hash(key) not in self._met:
            if len(self._met) >= _MOST_MET:
                self._met.clear()
            self._met.add(hash(key))
            return
        while self._kept and self.bytes + size > self.limit:
            oldest = next(iter(self._kept))
            if self._turn[oldest] == self._now:
                return
            self.bytes -= self._kept.pop(oldest)[1]
            del self._turn[oldest]
        if self.bytes + size <= self.limit and key not in self._kept:
            self._kept[key] = (result, size)
            self._turn[key] = self._now
            self.bytes += size


class ReusingNetwork(TorchModule):
    """A `TorchModule` that, inside `reusing`, computes only what a change of bits reaches.

    Networks with control flow compute everything.

    Args:
        module: network with fake-quant nodes.
        limit: bytes of results that are kept at most.
    """

    def __init__(self, module: Module, *, limit: int = MEMORY) -> None:
        super().__init__(module)
        self.memory = Remembered(limit)
        self.tag: str | None = None
        self._plan = _ReusingPlan(module, self)
        self._cones = _cones(self._plan)
        self._within = {node: frozenset(cone) for node, cone in self._cones.items()}
        self.ends = frozenset(value.producer for value in self.graph.outputs if value is not None)
        self.borders = frozenset() if self._plan.subplans else _borders(self._plan, self._cones)

    def set_policy(self, policy: Any) -> None:
        """Choose bits; see `TorchModule.set_policy`."""
        super().set_policy(policy)
        self.memory.turn()

    def forget_weights(self) -> None:
        """Drop everything that parameters took part in."""
        super().forget_weights()
        self.memory.clear()

    def signature(self, node: Node) -> Signature:
        """Return the bits that a node's result depends on; where quantizers are off, those that are on all the same."""
        if not self._off:
            return tuple(self._bits[quantizer] for quantizer in self._cones[node])
        return tuple((quantizer, bits) for quantizer, bits in self._on.items() if quantizer in self._within[node])

    @property
    def remembers(self) -> bool:
        """Results are kept and found at present."""
        return self.tag is not None and bool(self.borders)


class _ReusingPlan(GraphPlan):
    """Runs the nodes that lie after a border whose result is not known."""

    def __init__(self, module: Module, network: ReusingNetwork) -> None:
        super().__init__(module.graph, module.opsets)
        self._network = network

    def run(self, values: Values, kernel: Kernel, keep: frozenset[Value] = frozenset()) -> list[torch.Tensor]:
        """Return the graph's outputs; with `keep` everything is computed."""
        network = self._network
        if not network.remembers or keep:
            return super().run(values, kernel, keep)

        def remembering(node: Node, lowering: Any, operands: Any) -> Result:
            made = kernel(node, lowering, operands)
            if node in network.borders:
                key = (network.tag, node, network.signature(node))
                network.memory.put(key, made, once=node in network.ends)
            return made

        part = copy(self)
        part.steps = self._missing(values)
        return GraphPlan.run(part, values, remembering)

    def _missing(self, values: Values) -> list[Any]:
        """Return the steps that must be computed; results that are known join `values`."""
        network = self._network
        wanted = {value.producer for value in self.graph.outputs if value is not None}
        missing = []
        for step in reversed(self.steps):
            node = step[0]
            if node not in wanted:
                continue
            known = None
            if node in network.borders:
                known = network.memory.get((network.tag, node, network.signature(node)))
            if known is None:
                missing.append(step)
                wanted.update(value.producer for value in node.operands)
            else:
                values.update(zip(node.results, known if isinstance(known, tuple) else (known,), strict=False))
        return missing[::-1]


def _cones(plan: GraphPlan) -> dict[Node, tuple[FakeQuant, ...]]:
    """Return quantizers that every node's result depends on, in graph order."""
    order = {node: place for place, (node, _) in enumerate(plan.steps)}
    found: dict[Node, tuple[FakeQuant, ...]] = {}
    for node, _ in plan.steps:
        above = {FakeQuant(node)} if node.is_fake_quant else set[FakeQuant]()
        for value in node.operands:
            if value.producer in found:
                above.update(found[value.producer])
        found[node] = tuple(sorted(above, key=lambda quantizer: order[quantizer.node]))
    return found


def _borders(plan: GraphPlan, cones: dict[Node, tuple[FakeQuant, ...]]) -> frozenset[Node]:
    """Return nodes whose result leaves the graph or is read by a node with a larger cone.

    Constants on their grids are not.
    """
    outputs = {value.producer for value in plan.graph.outputs if value is not None}
    return frozenset(
        node
        for node, _ in plan.steps
        if not (node.is_fake_quant and node.operands[0].is_constant)
        and (node in outputs or any(len(cones.get(user, ())) > len(cones[node]) for user in node.result.users))
    )


_TAGS = count()


def new_tag() -> str:
    """Return a tag that nothing else has."""
    return f"input {next(_TAGS)}"


@contextmanager
def reusing(network: TorchModule, tag: str) -> Iterator[None]:
    """Inside, a `ReusingNetwork` keeps and finds results; a plain `TorchModule` computes everything.

    Args:
        network: the network.
        tag: stands for the input and for what hooks do with it: the same tag must mean the same of both.
    """
    if not isinstance(network, ReusingNetwork):
        yield
        return
    before, network.tag = network.tag, tag
    try:
        yield
    finally:
        network.tag = before


@contextmanager
def reusing_here(network: TorchModule) -> Iterator[None]:
    """Inside, where the input stays the same, as `reusing`; afterwards everything is forgotten."""
    try:
        with reusing(network, new_tag()):
            yield
    finally:
        if isinstance(network, ReusingNetwork):
            network.memory.clear()


@contextmanager
def numbered(network: TorchModule, number: int) -> Iterator[None]:
    """Inside `reusing`: one of several inputs under the same tag."""
    tag = getattr(network, "tag", None)
    with nullcontext() if tag is None else reusing(network, f"{tag} {number}"):
        yield


class Corrector:
    """Fits the channel-wise affine correction; layers whose cone did not change keep their terms.

    Args:
        network: the network; its parameters are those of the float network.
        images: float32 [N, …] that the correction is fitted to.
    """

    def __init__(self, network: TorchModule, images: torch.Tensor) -> None:
        self._network, self._images, self._tag = network, images, new_tag()
        self._layers = [layer.node for layer in quantized_layers(network.graph) if correctable(layer.node)]
        self._reference = pre_activations(network, self._layers, images)
        self._terms: dict[tuple[Node, Signature], tuple[torch.Tensor, torch.Tensor]] = {}

    def fit(self) -> AffineCorrection:
        """Return the correction at the network's bits."""
        network = self._network
        with reusing(network, self._tag):
            terms = fit_affine_correction(network, self._reference, self._images).terms
        if not isinstance(network, ReusingNetwork):
            return AffineCorrection(terms)
        self._terms |= {(node, network.signature(node)): found for node, found in terms.items()}
        return AffineCorrection({node: self._terms[node, network.signature(node)] for node in self._layers})

    def output(self, correction: AffineCorrection) -> torch.Tensor:
        """Return first output of the corrected network on the images, at the bits that the correction was fitted at."""
        with torch.no_grad(), reusing(self._network, self._tag):
            first: torch.Tensor = self._network(self._images, hook=correction)[0]
        return first
