"""Which value of the float network a value of the network exported from it stands for: found by structure, not by name.

Both graphs are walked from their inputs. QuantizeLinear, DequantizeLinear and what limits codes change no meaning; a
node corresponds to the node of the same operator on the corresponding operands. Between nodes that are alike attributes
decide, then weights, then names; an operator without a counterpart is looked up by name alone.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from qir.backends.integer.operators import operator_of
from qir.backends.integer.reference import DEQUANTIZE, QUANTIZE
from qir.graph import Node, Value
from qir.module import Module
from qir.ops import op_of
from qir.passes.parity.layers import makes_codes
from qir.tensor import Array
from qir.types import TensorType

TRANSPARENT = frozenset({QUANTIZE, DEQUANTIZE})
"""Operators whose result stands for what their first operand stands for."""


def correspondence(module: Module, original: Module) -> dict[Value, Value]:
    """Return the value of the float network that each value of an exported network stands for, where there is one.

    Activations that a grid expresses (a Relu or Clip folded into the limits of the codes) are not nodes of the exported
    network: its codes stand for what comes after them.

    Args:
        module: exported network.
        original: float network, folded as it was before quantization.
    """
    return _Walk(module, original).run()


class _Walk:
    def __init__(self, module: Module, original: Module) -> None:
        self.module = module
        self.named = {value.name: value for value in original.graph.values() if not value.is_constant}
        self.by_node = {node.name: node for node in original.graph if node.name}
        self.dynamic = {value for value in module.graph.inputs if not value.is_constant}
        self.found = {v: self.named[v.name] for v in self.dynamic if v.name in self.named}
        self.taken = set[Node]()

    def run(self) -> dict[Value, Value]:
        """Walk the exported network once, in order."""
        for node in self.module.graph:
            if node.is_return or not any(value in self.dynamic for value in node.operands):
                continue
            self.dynamic.update(node.results)
            for value, other in zip(node.results, self._results(node), strict=False):
                if other is not None:
                    self.found[value] = other
            if makes_codes(node) and node.result in self.found:
                self.found[node.result] = self._after_activations(node.result)
        return self.found

    def _results(self, node: Node) -> list[Value | None]:
        """Return what the results of a node stand for."""
        if node.op in TRANSPARENT or _limits_codes(node):
            return [self.found.get(node.operands[0])]
        partner = self._partner(node)
        if partner is None:
            return [self._by_name(value) for value in node.results]
        self.taken.add(partner)
        return list(partner.results)

    def _by_name(self, value: Value) -> Value | None:
        named = self.by_node.get(value.producer.name) if value.producer is not None else None
        found = self.named.get(value.name)
        if found is None and named is not None and len(named.results) == 1:
            found = named.result
        return found if found is None or _same_rank(value, found) else None

    def _partner(self, node: Node) -> Node | None:
        """Return the float network's node of the same operator on the same values."""
        operator = operator_of(node)
        op = node.op if operator is None else operator.op
        read = [self.found.get(value) for value in _data(node) if value in self.dynamic]
        if not read or read[0] is None:
            return None
        alike = [
            user
            for user in dict.fromkeys(read[0].users)
            if user.op == op and [value for value in user.operands if not value.is_constant] == read
        ]
        alike = [user for user in alike if user not in self.taken] or alike
        return max(alike, key=lambda user: _likeness(node, user)) if len(alike) > 1 else next(iter(alike), None)

    def _after_activations(self, codes: Value) -> Value:
        """Return what codes stand for after the activations that are not nodes of the exported network."""
        value, readers = self.found[codes], {reader.op for reader in _readers(codes)}
        while len(value.users) == 1 and not (user := value.users[0]).is_return:
            if user.op in readers or not op_of(user).fuses_into_producer(user):
                break
            value = user.result
        return value


def _limits_codes(node: Node) -> bool:
    """Return whether a node is a Clip or Cast of integers."""
    if node.op not in ("Clip", "Cast"):
        return False
    kinds = [value.type for value in (node.operands[0], node.result)]
    return all(isinstance(kind, TensorType) and not kind.dtype.is_float for kind in kinds)


def _data(node: Node) -> list[Value]:
    """Return the operands that hold data: of an operator on codes those of its codes."""
    operator = operator_of(node)
    if operator is None:
        return list(node.operands)
    return [value for codes, _, _ in operator.operands if (value := node.input(codes)) is not None]


def _readers(codes: Value) -> Iterator[Node]:
    """Yield the nodes that compute with codes, seen through what changes no meaning."""
    for user in dict.fromkeys(codes.users):
        if not user.is_return and (user.op in TRANSPARENT or _limits_codes(user)):
            yield from _readers(user.result)
        else:
            yield user


def _same_rank(value: Value, other: Value) -> bool:
    shapes = [kind.shape for kind in (value.type, other.type) if isinstance(kind, TensorType)]
    return len({len(shape) for shape in shapes if shape is not None}) <= 1


def _likeness(node: Node, other: Node) -> tuple[bool, float, bool]:
    """Return the order of nodes that could correspond: equal attributes, then weights, then names."""
    return dict(node.attributes) == dict(other.attributes), _correlation(node, other), _same_names(node, other)


def _same_names(node: Node, other: Node) -> bool:
    return node.result.name == other.result.name or (bool(node.name) and node.name == other.name)


def _correlation(node: Node, other: Node) -> float:
    """Return correlation of the largest constants of two nodes; -1 where their sizes differ, 0 where one has none."""
    ours, theirs = _weight(node), _weight(other)
    if ours is None or theirs is None:
        return 0.0
    if ours.size != theirs.size:
        return -1.0
    norm = float(np.linalg.norm(ours) * np.linalg.norm(theirs))
    return float(ours @ theirs) / norm if norm else 0.0


def _weight(node: Node) -> Array | None:
    """Return the largest constant of a node as a flat float64 array of mean 0, seen through its DequantizeLinear."""
    constants = [found for value in node.operands if (found := _source(value).constant) is not None]
    if not constants:
        return None
    flat = max(constants, key=lambda tensor: tensor.size).numpy().astype(np.float64).reshape(-1)
    return np.asarray(flat - flat.mean())


def _source(value: Value) -> Value:
    while value.producer is not None and value.producer.op == DEQUANTIZE:
        value = value.producer.operands[0]
    return value
