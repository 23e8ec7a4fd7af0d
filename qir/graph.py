"""Graphs: nodes in topological order, inputs, constants, outputs.

Ownership: a `Value` is owned by one node (a result) or one graph (an input or a constant). The writers
(`Node.set_input`, `Node.set_inputs`, `Node.set_attribute`, `Value.replace_all_uses_with`, `Graph.insert`, `Graph.erase`
and the setters of a value's type, name and constant) keep use lists right and advance the module's clock.
Equality is identity.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from qir.clock import Clock
from qir.errors import QirError
from qir.node import FAKE_QUANT, QIR_DOMAIN, Node
from qir.tensor import Tensor
from qir.types import Type
from qir.value import Use, Value

__all__ = ["FAKE_QUANT", "QIR_DOMAIN", "Graph", "Node", "Use", "Value"]


class Graph:
    """Nodes in topological order, inputs, constants, and a `return` node whose operands are the outputs.

    Iteration visits the nodes in order (the `return` node is not among them) and may insert and erase meanwhile: a
    node inserted after the current one is visited, one inserted before it is not; erasing the current node goes on
    with the node that followed it, and an erased node that was not yet visited is not visited. After moving the
    current node, iteration goes on after its new place.

    Attributes:
        parent: the node that holds this graph as an attribute, or None.
        doc_string, metadata: serialized; `meta` is not.
        opaque: protobuf fields of the graph that qir does not model, as bytes.
        clock: version counters, shared by all graphs of a module.
        output_names: names of the outputs as the file shows them, whatever the returned values are called.
    """

    def __init__(self, name: str = "") -> None:
        self.name = name
        self.doc_string = ""
        self.metadata: dict[str, str] = {}
        self.opaque = b""
        self.meta: dict[str, Any] = {}
        self.parent: Node | None = None
        self.clock = Clock()
        self.output_names: tuple[str, ...] = ()
        self.return_node = Node("return", (), 0, domain=QIR_DOMAIN)
        self.return_node.graph = self
        self._inputs: tuple[Value, ...] = ()
        self._input_set: frozenset[Value] = frozenset()
        self._constants: dict[Value, None] = {}
        self._first: Node | None = None
        self._last: Node | None = None
        self._length = 0

    # -- reading ------------------------------------------------------------------------------------------------

    @property
    def inputs(self) -> tuple[Value, ...]:
        """Inputs in order."""
        return self._inputs

    @property
    def constants(self) -> tuple[Value, ...]:
        """Constants that are not inputs, in the order in which they were added."""
        return tuple(self._constants)

    @property
    def outputs(self) -> tuple[Value | None, ...]:
        """Operands of the `return` node."""
        return self.return_node.inputs

    def __iter__(self) -> Iterator[Node]:
        node = self._first
        while node is not None:
            if node.graph is self:
                yield node
            node = node._next

    def __reversed__(self) -> Iterator[Node]:
        node = self._last
        while node is not None:
            if node.graph is self:
                yield node
            node = node._previous

    def __len__(self) -> int:
        return self._length

    @property
    def nodes(self) -> tuple[Node, ...]:
        """A snapshot of the nodes."""
        return tuple(self)

    def walk(self) -> Iterator[Node]:
        """Yield all nodes, those of subgraphs included, each before the nodes inside it."""
        for node in self:
            yield node
            for graph in node.subgraphs():
                yield from graph.walk()

    def values(self) -> Iterator[Value]:
        """Yield inputs, constants and results of this graph (not of its subgraphs), in that order."""
        yield from self._inputs
        yield from self._constants
        for node in self:
            yield from node.results

    def fake_quants(self) -> tuple[Node, ...]:
        """Return the fake-quant nodes of this graph, in order."""
        return tuple(node for node in self if node.is_fake_quant)

    # -- writing ------------------------------------------------------------------------------------------------

    def add_input(self, value: Value | str, type: Type | None = None) -> Value:  # noqa: A002
        """Append an input."""
        value = self._own(value, type)
        self._inputs = (*self._inputs, value)
        self._input_set = frozenset(self._inputs)
        return value

    def add_inputs(self, values: Iterable[Value]) -> None:
        """Append many inputs at once."""
        self._inputs = (*self._inputs, *(self._own(value, None) for value in values))
        self._input_set = frozenset(self._inputs)

    def add_constant(self, value: Value | str, constant: Tensor | None = None) -> Value:
        """Add a constant; a name that is taken is made unique."""
        if isinstance(value, str):
            value = Value(self.clock.unique_name(value))
        if constant is not None:
            value._constant = constant
            value._type = constant.type
        self._own(value, None)
        self._constants[value] = None
        return value

    def remove_input(self, value: Value) -> None:
        """Remove an unused input; `QirError` when it is used."""
        self._refuse_used(value)
        self._inputs = tuple(v for v in self._inputs if v is not value)
        self._input_set = frozenset(self._inputs)
        self._disown(value)

    def remove_constant(self, value: Value) -> None:
        """Remove an unused constant; `QirError` when it is used."""
        self._refuse_used(value)
        del self._constants[value]
        self._disown(value)

    def set_outputs(self, values: Iterable[Value | None], names: Iterable[str] | None = None) -> None:
        """Set what the graph returns; without names the outputs are called as the values are."""
        values = tuple(values)
        self.return_node.set_inputs(values)
        self.output_names = tuple(names) if names is not None else tuple(v.name if v else "" for v in values)

    def insert(self, node: Node, *, before: Node | None = None, after: Node | None = None) -> Node:
        """Insert a node before or after another one, or at the end; results without a name get a unique one."""
        if node.graph is not None:
            raise QirError(f"node {node} already stands in a graph: erase it there first")
        self._link(node, self._anchor(before, after))
        self._name_results(node)
        for graph in node.subgraphs():
            graph._attach(node)
        node._touch()
        return node

    def _append_new(self, node: Node) -> None:
        """`insert` at the end of a node that was just made and stands in no graph."""
        self._link(node, self._last)
        self._name_results(node)
        if node._attributes:
            for graph in node.subgraphs():
                graph._attach(node)
        clock = self.clock
        clock.version += 1
        node.stamp = clock.version

    def _link(self, node: Node, anchor: Node | None) -> None:
        following = anchor._next if anchor is not None else self._first
        node._previous, node._next = anchor, following
        if anchor is None:
            self._first = node
        else:
            anchor._next = node
        if following is None:
            self._last = node
        else:
            following._previous = node
        node.graph = self
        self._length += 1

    append = insert

    def _anchor(self, before: Node | None, after: Node | None) -> Node | None:
        """Return the node after which a node is put, None = at the start; before the `return` node means at the end."""
        for neighbour in (before, after):
            if neighbour is not None and neighbour.graph is not self:
                raise QirError(f"node {neighbour} does not stand in graph {self.name!r}")
        if after is not None:
            if after is self.return_node:
                raise QirError(f"graph {self.name!r}: nothing stands after the return node")
            return after
        return self._last if before is None or before is self.return_node else before._previous

    def erase(self, node: Node) -> None:
        """Take a node out and drop its operands and those inside its subgraphs; `QirError` when a result is used."""
        self._refuse_stranger(node)
        for value in node.results:
            self._refuse_used(value)
        self._unlink(node)
        node.set_inputs(())
        for graph in node.subgraphs():
            if graph.parent is node:
                graph._drop_uses()
        node.graph = None
        self.clock.version += 1

    def move(self, node: Node, *, before: Node | None = None, after: Node | None = None) -> None:
        """Move a node of this graph to another place in the order."""
        self._refuse_stranger(node)
        self._anchor(before, after)
        if node is before or node is after:
            return
        self._unlink(node)
        node.graph = None
        self.insert(node, before=before, after=after)

    def _unlink(self, node: Node) -> None:
        if node._previous is None:
            self._first = node._next
        else:
            node._previous._next = node._next
        if node._next is None:
            self._last = node._previous
        else:
            node._next._previous = node._previous
        self._length -= 1

    def _name_results(self, node: Node) -> None:
        names = self.clock.names
        for value in node.results:
            if value._name is None:
                value._name = self.clock.unique_name(node._name or node.op.lower())
            elif value._name:
                names.add(value._name)
        if node._name:
            names.add(node._name)

    def _own(self, value: Value | str, type: Type | None) -> Value:  # noqa: A002
        if isinstance(value, str):
            value = Value(value, type)
        elif value.owner is not None and value.owner is not self:
            raise QirError(f"value {value.name!r} is owned already")
        value.owner = self
        if value._name is None:
            value._name = self.clock.unique_name("value")
        self.clock.names.add(value._name)
        self.clock.version += 1
        return value

    def _disown(self, value: Value) -> None:
        value.owner = None
        self.clock.version += 1

    def _refuse_stranger(self, node: Node) -> None:
        if node.graph is not self or node is self.return_node:
            raise QirError(f"node {node} does not stand in graph {self.name!r}")

    def _drop_uses(self) -> None:
        """Forget every use that the nodes of this graph and its subgraphs make."""
        self.return_node.set_inputs(())
        for node in self:
            node.set_inputs(())
            for graph in node.subgraphs():
                graph._drop_uses()

    def _refuse_used(self, value: Value) -> None:
        if value._uses:
            raise QirError(f"value {value.name!r} is still used by {value.users[0]}: replace its uses first")

    def _attach(self, parent: Node) -> None:
        self.parent = parent
        clock = parent.graph.clock if parent.graph is not None else None
        if clock is not None and clock is not self.clock:
            self._share(clock)

    def _share(self, clock: Clock) -> None:
        clock.names |= self.clock.names
        clock.version += 1
        self.clock = clock
        self.return_node.stamp = clock.version
        for node in self:
            node.stamp = clock.version
            for graph in node.subgraphs():
                graph._share(clock)

    def __repr__(self) -> str:
        return f"Graph({self.name!r}, {len(self._inputs)} inputs, {self._length} nodes, {len(self.outputs)} outputs)"
