"""A network with fake-quant nodes in numpy and ONNX Runtime, node after node: what it computes at any bits."""

from __future__ import annotations

from collections import ChainMap
from collections.abc import Callable, Iterable, Mapping, MutableMapping

import numpy as np

from qir.backends.execution.biases import find_biases, rounded_bias
from qir.backends.execution.evaluate import evaluate_control_flow, read_inside
from qir.backends.execution.node_sessions import NodeSessions
from qir.errors import DataError, QirError
from qir.fake_quant import FakeQuant
from qir.graph import Node, Value
from qir.module import Module
from qir.policy import Bits
from qir.quantizers.channels import fake_quantize_channels
from qir.quantizers.kernels import fake_quantize
from qir.quantizers.parameters import QuantParameters
from qir.tensor import Array

Hook = Callable[[Node, Array], Array]
"""Called with the first result of every node that depends on the input; what it returns is the result from then on."""


class Interpreter:
    """Computes the main graph of a network as the exported integers do, without gradients and without torch.

    Weights and activations lie on their grids, biases are int32 at scale s_x·s_w.

    Args:
        module: network, with or without fake-quant nodes; changes of it after this are not seen.

    Attributes:
        graph: the main graph.

    Raises:
        QirError: a quantizer lies inside If, Loop or Scan.
    """

    def __init__(self, module: Module) -> None:
        self.graph = module.graph
        self._opsets = module.opsets
        self._sessions = NodeSessions(module.opsets)
        inside = quantizers_inside(module)
        if inside:
            raise QirError(f"quantizer {inside[0].name!r} lies inside If, Loop or Scan: only torch simulates it there")
        self._given = [value for value in self.graph.inputs if value.constant is None]
        self._biases = find_biases(self.graph)
        self._grids: dict[tuple[FakeQuant, int], QuantParameters] = {}
        self._fixed: dict[tuple[Node, Bits | None], Array] = {}
        self._constants: dict[Value, Array] = {}
        for value in (*self.graph.inputs, *self.graph.constants):
            if value.constant is not None:
                self._constants[value] = value.constant.numpy()
        self._bits: dict[FakeQuant, Bits] = {q: q.bits for q in map(FakeQuant, self.graph.fake_quants())}
        self._names = {quantizer.name: quantizer for quantizer in self._bits}
        self._freed = self._last_reads()

    def run(
        self,
        feed: Mapping[str, Array],
        *,
        on: Mapping[str, Bits] | None = None,
        hook: Hook | None = None,
        keep: Iterable[Value] | None = (),
    ) -> dict[Value, Array]:
        """Compute one batch.

        Args:
            feed: arrays by the name of the network's inputs.
            on: bits of the quantizers that are on, by name, the others are off; None: all are, at the module's bits.
            hook: sees and may change every result.
            keep: values that the answer holds next to the outputs; None: all.

        Raises:
            DataError: an input is missing.
            QirError: a node cannot be computed, or a quantizer is not calibrated.
        """
        values = dict(self._constants)
        for value in self._given:
            if value.name not in feed:
                raise DataError(f"input {value.name!r} is missing; given are {', '.join(feed) or 'none'}")
            values[value] = np.asarray(feed[value.name])
        kept = None if keep is None else {*keep, *self._outputs}
        for node in self._nodes:
            self._step(node, values, on, hook)
            if kept is not None:
                for value in self._freed.get(node, ()):
                    if value not in kept:
                        del values[value]
        return values if kept is None else {value: values[value] for value in kept}

    def rerun(self, known: dict[Value, Array], on: Mapping[str, Bits]) -> list[Array]:
        """Return the outputs of the float network with some quantizers on: only what lies after them is computed.

        Args:
            known: every value of the float network, from `run` with `on={}` and `keep=None`.
            on: bits of the quantizers that are on, by name.

        Raises:
            QirError: as `run`.
        """
        changed: dict[Value, Array] = {}
        starts = {self._quantizer(name).node for name in on}
        for node in self._nodes:
            inner = (value for graph in node.subgraphs() for value in read_inside(graph))
            if node in starts or any(value in changed for value in (*node.operands, *inner)):
                self._step(node, ChainMap(changed, known), on, None)
        return [changed[value] if value in changed else known[value] for value in self._outputs]

    @property
    def _nodes(self) -> list[Node]:
        return [node for node in self.graph if not node.is_return]

    @property
    def _outputs(self) -> list[Value]:
        return [value for value in self.graph.outputs if value is not None]

    def _quantizer(self, name: str) -> FakeQuant:
        if name not in self._names:
            raise QirError(f"quantizer {name!r} does not exist: expected one of {', '.join(self._names)}")
        return self._names[name]

    def _bits_of(self, quantizer: FakeQuant, on: Mapping[str, Bits] | None) -> Bits | None:
        return self._bits[quantizer] if on is None else on.get(quantizer.name)

    def _step(
        self, node: Node, values: MutableMapping[Value, Array], on: Mapping[str, Bits] | None, hook: Hook | None
    ) -> None:
        operands = [None if value is None else values[value] for value in node.inputs]
        if node.is_fake_quant:
            results = [self._fake_quantize(FakeQuant(node), operands[0], self._bits_of(FakeQuant(node), on))]
        elif node.subgraphs():
            read = (*node.operands, *(v for graph in node.subgraphs() for v in read_inside(graph)))
            outside = {value: values[value] for value in read if value in values}
            found = iter(evaluate_control_flow(node, outside, opsets=self._opsets))
            results = [next(found) if value.name else np.empty(0) for value in node.results]
        else:
            results = self._sessions.run(node, self._with_rounded_bias(node, operands, on))
        if hook is not None:
            results[0] = hook(node, results[0])
        values.update(zip(node.results, results, strict=False))

    def _fake_quantize(self, quantizer: FakeQuant, x: Array | None, bits: Bits | None) -> Array:
        if x is None:
            raise QirError(f"quantizer {quantizer.name!r} has no operand")
        if bits is None:
            return x
        key, constant = (quantizer.node, bits), quantizer.source.constant is not None
        if key in self._fixed:
            return self._fixed[key]
        if isinstance(bits, int):
            rows, axis = quantizer.granularity.rows(x)
            made = quantizer.granularity.restored(fake_quantize(rows, self._grid(quantizer, bits), axis), x.shape)
        elif quantizer.granularity.axis is None:
            raise QirError(f"quantizer {quantizer.name!r}: has a width per channel and no axis of channels")
        else:
            grids = {width: self._grid(quantizer, width) for width in set(bits) - {0}}
            made = fake_quantize_channels(x, grids, bits, quantizer.granularity.axis)
        if constant:
            self._fixed[key] = made
        return made

    def _with_rounded_bias(
        self, node: Node, operands: list[Array | None], on: Mapping[str, Bits] | None
    ) -> list[Array | None]:
        """Return the operands with the bias on its grid, where all quantizers are on."""
        if on is not None or node not in self._biases:
            return operands
        index, data, weight = self._biases[node]
        bits, widths, bias = self._bits[data], self._bits[weight], operands[index]
        if bias is None or not isinstance(bits, int) or not isinstance(widths, int):
            return operands
        made = rounded_bias(bias, self._grid(data, bits), self._grid(weight, widths))
        return [*operands[:index], made, *operands[index + 1 :]]

    def _grid(self, quantizer: FakeQuant, bits: int) -> QuantParameters:
        if (quantizer, bits) not in self._grids:
            self._grids[quantizer, bits] = quantizer.grid(bits)
        return self._grids[quantizer, bits]

    def _last_reads(self) -> dict[Node, tuple[Value, ...]]:
        """Return results that no node after this one reads."""
        last: dict[Value, Node] = {}
        for node in self._nodes:
            for value in (*node.operands, *(v for graph in node.subgraphs() for v in read_inside(graph))):
                if value.producer is not None and value.producer.graph is self.graph:
                    last[value] = node
        freed: dict[Node, list[Value]] = {}
        for value, node in last.items():
            freed.setdefault(node, []).append(value)
        return {node: tuple(values) for node, values in freed.items()}


def quantizers_inside(module: Module) -> list[Node]:
    """Return the fake-quant nodes that lie inside If, Loop or Scan."""
    return [node for node in module.graph.walk() if node.is_fake_quant and node.graph is not module.graph]
