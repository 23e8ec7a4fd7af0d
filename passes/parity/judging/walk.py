"""Teacher forcing: every layer of an exported network on the inputs that an engine itself gave it.

The integer reference walks through the network once for all engines. Where an engine's codes equal the reference's they
are the same array, so that an engine without a difference costs one comparison a tensor; where they differ the
reference computes the layers that read them again, on the engine's codes. A layer is therefore judged by itself: what
differs upstream, a float operator for example, neither hides nor causes a difference.

The term is from recurrent networks (Williams and Zipser 1989), which are trained on the given outputs of earlier steps.
"""

from __future__ import annotations

from collections import ChainMap
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace

import numpy as np

from qir.backends.execution.evaluate import read_inside
from qir.backends.execution.executor import Run
from qir.backends.integer.operators import operator_of
from qir.backends.integer.reference import QUANTIZE, IntegerReference, IntegerRun, State
from qir.backends.integer.values import Grid, Pending
from qir.graph import Node, Value
from qir.module import Module
from qir.tensor import Array

PRODUCTS = frozenset({"Conv", "Gemm", "MatMul"})
"""ONNX operators whose sums of products clip on x86 CPUs without VNNI where ONNX Runtime fuses them."""


@dataclass(frozen=True)
class Judged:
    """One tensor of codes of one engine.

    Attributes:
        node: what makes the codes: QuantizeLinear or an operator on codes.
        value: name of the value that holds them.
        engine: name of the engine.
        expected: what the reference computes from the engine's own inputs of this layer.
        found: what the engine computed.
        free: what the reference computes from the network's inputs.
        position: the values in steps of their grid before rounding, float64, the zero point added; None where the
            reference rounds integers that no float stands for.
        floating: whether the reference computes the values on floats.
    """

    node: Node
    value: str
    engine: str
    expected: Array
    found: Array
    free: Array
    position: Callable[[], Array | None]
    floating: bool


class Walk:
    """The integer reference and its variants, batch by batch, with engines held against it.

    Args:
        module: the exported network.
        codes: the value that holds the codes of each node that makes some.
        reference: what engines are held against.
        variants: references with another arithmetic by name, computed from the network's inputs.
    """

    def __init__(
        self,
        module: Module,
        codes: Mapping[Node, Value],
        reference: IntegerReference,
        variants: Mapping[str, IntegerReference] | None = None,
    ) -> None:
        self._nodes = [node for node in module.graph if not node.is_return]
        self._makers = {value: node for node, value in codes.items()}
        self._reference, self._variants = reference, dict(variants or {})
        self._done = self._last_uses(module)

    def run(
        self, feed: Mapping[str, Array], found: Mapping[str, Run], judge: Callable[[Judged], None]
    ) -> tuple[IntegerRun, dict[str, IntegerRun]]:
        """Return one batch: what the reference computes from the inputs.

        What each variant does, and from each engine's codes.

        `judge` gets every tensor of codes of every engine.

        Args:
            feed: the network's inputs by name.
            found: the codes of each engine.
            judge: called for each tensor of codes and engine, in the network's order.

        Raises:
            DataError, QirError: as `IntegerReference.run`.
        """
        base = self._reference.begin(feed)
        engines = {name: _Branch(self._reference, base) for name in found}
        variants = {name: _Branch(variant, base, always=True) for name, variant in self._variants.items()}
        for node in self._nodes:
            base.step(node)
            for branch in (*engines.values(), *variants.values()):
                branch.step(node, base)
            for value in node.results:
                if value in self._makers:
                    for name, branch in engines.items():
                        self._judge(value, name, branch, base, found[name].codes[value.name], judge)
            for value in self._done.get(node, ()):
                for branch in (*engines.values(), *variants.values()):
                    branch.own.pop(value, None)
                base.values.pop(value, None)
        run = base.finish()
        ends = {name: branch.state.finish() for name, branch in (*engines.items(), *variants.items())}
        return run, {name: replace(end, codes={**run.codes, **end.codes}) for name, end in ends.items()}

    def _judge(
        self, value: Value, name: str, branch: _Branch, base: State, found: Array, judge: Callable[[Judged], None]
    ) -> None:
        maker, state = self._makers[value], branch.state
        expected, free = (np.asarray(states.values[value]) for states in (state, base))
        source = maker.operands[0] if maker.op == QUANTIZE else None
        real = None if source is None else state.values[source]
        floating = isinstance(real, np.ndarray) and source is not None and source.producer is not None
        judge(Judged(maker, value.name, name, expected, found, free, lambda: _position(maker, state), floating))
        if np.array_equal(found, free):
            branch.own.pop(value, None)
        else:
            branch.own[value] = found.astype(free.dtype)

    def _last_uses(self, module: Module) -> dict[Node, list[Value]]:
        """Return the values that no node reads after a node.

        What a tensor of codes was rounded from lives as long as it.
        """
        last: dict[Value, int] = {}
        for index, node in enumerate(self._nodes):
            last.update(dict.fromkeys(node.operands, index))
            for value in node.results:
                maker = self._makers.get(value)
                last.update({operand: max(last[operand], index) for operand in (maker.operands if maker else ())})
        inner = (value for node in self._nodes for graph in node.subgraphs() for value in read_inside(graph))
        kept = {*inner, *(value for value in module.graph.outputs if value is not None)}
        done: dict[Node, list[Value]] = {}
        for value, index in last.items():
            if value not in kept:
                done.setdefault(self._nodes[index], []).append(value)
        return done


class _Branch:
    """The values of one engine or variant where they are others than the reference's."""

    def __init__(self, reference: IntegerReference, base: State, *, always: bool = False) -> None:
        self.own: dict[Value, Array | Grid | Pending] = {}
        self.state = reference.branch(ChainMap(self.own, base.values), base)
        self._always = always

    def step(self, node: Node, base: State) -> None:
        """Compute a node where its operands or its arithmetic are others; keep what is not equal."""
        variable = any(value in base.variable for value in node.operands)
        changes = self._always and variable and _counts(node, base, saturating=self.state.saturating)
        if not changes and not any(value in self.own for value in _read(node)):
            return
        self.state.step(node)
        for value in node.results:
            mine, other = self.own.get(value), base.values[value]
            if isinstance(mine, np.ndarray) and isinstance(other, np.ndarray) and np.array_equal(mine, other):
                del self.own[value]


def _counts(node: Node, base: State, *, saturating: bool) -> bool:
    """Return whether a variant of the reference may compute a node in another way: products, or what rounds."""
    if not saturating:
        return node.op == QUANTIZE or operator_of(node) is not None
    operands = [base.values.get(value) for value in node.operands]
    return (node.op in PRODUCTS or operator_of(node) is not None) and any(map(_is_signed_byte, operands))


def _is_signed_byte(value: Array | Grid | Pending | None) -> bool:
    """Return whether a value holds int8 codes; products of uint8 codes alone are exact everywhere."""
    if isinstance(value, Grid):
        return value.signed and value.bits == 8
    return isinstance(value, np.ndarray) and value.dtype == np.int8


def _read(node: Node) -> Iterable[Value]:
    """Return what a node reads, captured values of its subgraphs included."""
    return (*node.operands, *(value for graph in node.subgraphs() for value in read_inside(graph)))


def _position(maker: Node, state: State) -> Array | None:
    """Return values before rounding in steps of the grid, plus the zero point."""
    if maker.op != QUANTIZE:
        return None
    source = state.values[maker.operands[0]]
    real = source if isinstance(source, np.ndarray) else source.real()
    scale, zero = (_parameter(maker, index, state, real.ndim) for index in (1, 2))
    return np.asarray(real / scale + zero)


def _parameter(maker: Node, index: int, state: State, rank: int) -> Array:
    """Scale or zero point of a QuantizeLinear, float64, shaped to broadcast against its operand."""
    value = maker.input(index)
    array = np.asarray(0.0 if value is None else state.values[value]).astype(np.float64)
    if array.size == 1:
        return array.reshape(())
    shape = [1] * rank
    shape[maker.attribute("axis", 1) % rank] = -1
    return array.reshape(shape)
