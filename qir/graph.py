"""The graph: values, nodes, graphs, with use lists that are right after every write.

Ownership: a `Value` is owned by one node (a result) or one graph (an input or a constant). The writers
(`Node.set_input`, `Node.set_inputs`, `Node.set_attribute`, `Value.replace_all_uses_with`, `Graph.insert`, `Graph.erase`
and the setters of a value's type, name and constant) keep use lists right and advance the module's clock.
Equality is identity.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

from qir.attributes import Attribute
from qir.errors import QirError
from qir.tensor import Tensor
from qir.types import Type, UnknownType

UNKNOWN = UnknownType()
QIR_DOMAIN = "qir"
FAKE_QUANT = "fake_quant"


class Clock:
    """What a module and all its graphs share: version counters and the names in use.

    `version` advances with every write except writes of `bits` on fake-quant nodes, which advance `policy_version`.
    An analysis is valid as long as the counters it depends on have not moved.
    """

    __slots__ = ("_counts", "names", "policy_version", "version")

    def __init__(self) -> None:
        self.version = 0
        self.policy_version = 0
        self.names: set[str] = set()
        self._counts: dict[str, int] = {}

    def unique_name(self, base: str) -> str:
        """`base`, or `base_1`, `base_2`, …: the first that no value or node has; it counts as used from now on."""
        name = base
        while name in self.names:
            count = self._counts[base] = self._counts.get(base, 0) + 1
            name = f"{base}_{count}"
        self.names.add(name)
        return name


class Use(NamedTuple):
    """One use of a value: operand `index` of `node`."""

    node: Node
    index: int


class Value:
    """One value of a graph: the result of a node, an input, or a constant.

    An input with a constant is an input that the caller may leave out (ONNX IR version 3 and below).

    Attributes:
        owner: the node or graph that owns the value, None once it is erased.
        index: position among the results of its node, or -1.
        doc_string: ONNX documentation text.
        metadata: serialized key/value pairs (`metadata_props`).
        meta: Python objects of passes and analyses; never serialized.
    """

    __slots__ = ("_constant", "_meta", "_name", "_type", "_uses", "doc_string", "index", "metadata", "owner")

    def __init__(self, name: str | None = None, type: Type | None = None) -> None:  # noqa: A002
        self._name = name
        self._type: Type | None = UNKNOWN if type is None else type
        self._constant: Tensor | None = None
        self._uses: dict[Use, None] = {}
        self._meta: dict[str, Any] | None = None
        self.owner: Node | Graph | None = None
        self.index = -1
        self.doc_string = ""
        self.metadata: dict[str, str] = {}

    @property
    def meta(self) -> dict[str, Any]:
        """Python objects of passes and analyses; never serialized."""
        if self._meta is None:
            self._meta = {}
        return self._meta

    @property
    def name(self) -> str:
        """Name, unique in its scope; empty for an optional result that is left out or not yet inserted."""
        return self._name or ""

    @name.setter
    def name(self, name: str) -> None:
        self._name = name
        if (clock := self._clock()) is not None:
            clock.names.add(name)
        self._touch()

    @property
    def type(self) -> Type:
        """The value's type; `UnknownType` when nothing is known. A fake-quant node's result derives its own."""
        if self._type is None:
            from qir.fake_quant import result_type

            assert isinstance(self.owner, Node)  # noqa: S101 - only results of fake-quant nodes are derived
            self._type = result_type(self.owner)
        return self._type

    @type.setter
    def type(self, type: Type) -> None:  # noqa: A002
        if isinstance(self.owner, Node) and self.owner.is_fake_quant:
            self._type = None
            return
        if type != self._type:
            self._type = type
            self._touch()

    @property
    def constant(self) -> Tensor | None:
        """The constant, or None."""
        return self._constant

    @constant.setter
    def constant(self, constant: Tensor | None) -> None:
        if isinstance(self.owner, Node):
            raise QirError(f"value {self.name!r} is a result of {self.owner}: only graph inputs and constants hold a tensor")
        self._constant = constant
        self._touch()

    @property
    def producer(self) -> Node | None:
        """The node whose result this is, or None."""
        return self.owner if isinstance(self.owner, Node) else None

    @property
    def is_constant(self) -> bool:
        """Whether the value is a constant that no caller can replace."""
        return self._constant is not None and not self.is_input

    @property
    def is_input(self) -> bool:
        """Whether the value is an input of a graph."""
        return isinstance(self.owner, Graph) and self in self.owner._input_set

    @property
    def is_output(self) -> bool:
        """Whether a graph returns the value."""
        return any(use.node.is_return for use in self._uses)

    @property
    def uses(self) -> tuple[Use, ...]:
        """A snapshot of the uses, in the order in which they were made."""
        return tuple(self._uses)

    @property
    def users(self) -> tuple[Node, ...]:
        """The nodes that use the value, each once, `return` nodes included."""
        return tuple(dict.fromkeys(use.node for use in self._uses))

    def replace_all_uses_with(self, other: Value) -> None:
        """Make every user (and every graph that returns it) use `other`; a graph's output names stay."""
        if other is self:
            return
        for use in self.uses:
            use.node.set_input(use.index, other)

    def _clock(self) -> Clock | None:
        if isinstance(self.owner, Graph):
            return self.owner.clock
        return self.owner.graph.clock if self.owner is not None and self.owner.graph is not None else None

    def _touch(self) -> None:
        clock = self._clock()
        if clock is None:
            return
        clock.version += 1
        if isinstance(self.owner, Node):
            self.owner.stamp = clock.version
        for use in self._uses:
            use.node.stamp = clock.version

    def __repr__(self) -> str:
        return f"%{self.name}: {self.type}"


class Node:
    """One operation.

    Attributes:
        op: operator name, `domain` its domain ("" = ONNX), `overload` a function's overload.
        name: node name, may be empty.
        results: the values it defines; fixed in number.
        graph: the graph it stands in, or None.
        doc_string, metadata: serialized; `meta` is not.
        stamp: the module's version at the node's last change.
    """

    __slots__ = (
        "_attributes",
        "_inputs",
        "_meta",
        "_name",
        "_next",
        "_previous",
        "doc_string",
        "domain",
        "graph",
        "metadata",
        "op",
        "overload",
        "results",
        "stamp",
    )

    def __init__(
        self,
        op: str,
        inputs: Iterable[Value | None] = (),
        results: int | Iterable[str | Value] = 1,
        *,
        domain: str = "",
        name: str = "",
        attributes: Mapping[str, Any] | None = None,
        overload: str = "",
    ) -> None:
        self.op = op
        self.domain = domain
        self.overload = overload
        self._name = name
        self._inputs: tuple[Value | None, ...] = ()
        made = [None] * results if isinstance(results, int) else list(results)
        self.results = tuple(v if isinstance(v, Value) else Value(v) for v in made)
        for index, value in enumerate(self.results):
            value.owner = self
            value.index = index
        self._attributes: dict[str, Attribute] = {}
        self._meta: dict[str, Any] | None = None
        self._previous: Node | None = None
        self._next: Node | None = None
        self.graph: Graph | None = None
        self.stamp = 0
        self.doc_string = ""
        self.metadata: dict[str, str] = {}
        for key, value in (attributes or {}).items():
            self.set_attribute(key, value)
        self.set_inputs(inputs)

    @property
    def meta(self) -> dict[str, Any]:
        """Python objects of passes and analyses; never serialized."""
        if self._meta is None:
            self._meta = {}
        return self._meta

    @property
    def name(self) -> str:
        """Node name, may be empty."""
        return self._name

    @name.setter
    def name(self, name: str) -> None:
        self._name = name
        self._touch()
        if self.graph is not None:
            self.graph.clock.names.add(name)

    @property
    def inputs(self) -> tuple[Value | None, ...]:
        """Operands; None where an optional operand is left out."""
        return self._inputs

    @property
    def operands(self) -> tuple[Value, ...]:
        """Operands that are there."""
        return tuple(v for v in self._inputs if v is not None)

    @property
    def result(self) -> Value:
        """The first result."""
        return self.results[0]

    @property
    def attributes(self) -> Mapping[str, Attribute]:
        """Attributes by name, read-only: write with `set_attribute`."""
        return MappingProxyType(self._attributes)

    def attribute(self, name: str, default: Any = None) -> Any:
        """An attribute's value as plain Python (int, float, str, tuple, `Tensor`, `Graph`), or `default`."""
        found = self._attributes.get(name)
        return default if found is None else found.python()

    def input(self, index: int) -> Value | None:
        """Operand `index`, None when it is left out."""
        return self._inputs[index] if index < len(self._inputs) else None

    @property
    def is_return(self) -> bool:
        """Whether this is the `return` node of its graph."""
        return self.op == "return" and self.domain == QIR_DOMAIN

    @property
    def is_fake_quant(self) -> bool:
        """Whether this is a fake-quant node."""
        return self.op == FAKE_QUANT and self.domain == QIR_DOMAIN

    @property
    def next(self) -> Node | None:
        """The node after this one."""
        return self._next

    @property
    def previous(self) -> Node | None:
        """The node before this one."""
        return self._previous

    def subgraphs(self) -> tuple[Graph, ...]:
        """Graphs among the attributes (the branches of If, the bodies of Loop and Scan)."""
        return tuple(graph for attribute in self._attributes.values() for graph in attribute.graphs())

    def set_input(self, index: int, value: Value | None) -> None:
        """Make operand `index` another value, or leave it out."""
        old = self._inputs[index]
        if old is value:
            return
        if old is not None:
            del old._uses[Use(self, index)]
        if value is not None:
            value._uses[Use(self, index)] = None
        self._inputs = (*self._inputs[:index], value, *self._inputs[index + 1 :])
        self._touch()

    def set_inputs(self, values: Iterable[Value | None]) -> None:
        """Replace all operands; their number may change."""
        for index, old in enumerate(self._inputs):
            if old is not None:
                del old._uses[Use(self, index)]
        self._inputs = tuple(values)
        for index, value in enumerate(self._inputs):
            if value is not None:
                value._uses[Use(self, index)] = None
        self._touch()

    def set_attribute(self, name: str, value: Any) -> None:
        """Set an attribute from a Python value or an `Attribute`; None removes it.

        Writing `bits` on a fake-quant node advances only the module's `policy_version`.
        """
        for graph in self._attributes[name].graphs() if name in self._attributes else ():
            graph.parent = None
        if value is None:
            self._attributes.pop(name, None)
        else:
            attribute = Attribute.of(value)
            self._attributes[name] = attribute
            for graph in attribute.graphs():
                graph._attach(self)
        if self.is_fake_quant:
            self.results[0]._type = None
            if name == "bits" and self.graph is not None:
                self.graph.clock.policy_version += 1
                return
        self._touch()

    def _touch(self) -> None:
        if self.is_fake_quant:
            self.results[0]._type = None
        if self.graph is not None:
            clock = self.graph.clock
            clock.version += 1
            self.stamp = clock.version

    def __repr__(self) -> str:
        results = ", ".join(f"%{v.name}" for v in self.results)
        operands = ", ".join("none" if v is None else f"%{v.name}" for v in self._inputs)
        op = f"{self.domain}.{self.op}" if self.domain else self.op
        return f"{results} = {op}({operands})" + (f" [{self.name}]" if self.name else "")


class Graph:
    """Nodes in topological order, inputs, constants, and a `return` node whose operands are the outputs.

    Iteration visits the nodes in order (the `return` node is not among them) and may insert and erase meanwhile: a
    node inserted behind the current one is visited, one inserted before it is not; erasing the current node goes on
    with the node that followed it, and an erased node that was not yet visited is not visited.

    Attributes:
        parent: the node that holds this graph as an attribute, or None.
        clock: version counters, shared by all graphs of a module.
        output_names: names of the outputs as the file shows them, whatever the returned values are called.
    """

    def __init__(self, name: str = "") -> None:
        self.name = name
        self.doc_string = ""
        self.metadata: dict[str, str] = {}
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
        """Constants that are no inputs, in the order in which they were added."""
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
        """All nodes, those of subgraphs included, each before the nodes inside it."""
        for node in self:
            yield node
            for graph in node.subgraphs():
                yield from graph.walk()

    def values(self) -> Iterator[Value]:
        """Inputs, constants and results of this graph (not of its subgraphs), in that order."""
        yield from self._inputs
        yield from self._constants
        for node in self:
            yield from node.results

    def fake_quants(self) -> tuple[Node, ...]:
        """The fake-quant nodes of this graph, in order."""
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
        if before is not None and before.is_return:
            before = None
        anchor = after if after is not None else (before._previous if before is not None else self._last)
        for neighbour in (before, after):
            if neighbour is not None and neighbour.graph is not self:
                raise QirError(f"node {neighbour} does not stand in graph {self.name!r}")
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
        self._name_results(node)
        for graph in node.subgraphs():
            graph._attach(node)
        node._touch()
        return node

    append = insert

    def erase(self, node: Node) -> None:
        """Take a node out and drop its operands; `QirError` when one of its results is used."""
        if node.graph is not self:
            raise QirError(f"node {node} does not stand in graph {self.name!r}")
        for value in node.results:
            self._refuse_used(value)
        self._unlink(node)
        node.set_inputs(())
        node.graph = None
        self.clock.version += 1

    def move(self, node: Node, *, before: Node | None = None, after: Node | None = None) -> None:
        """Move a node of this graph to another place in the order."""
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
        self.clock.names.add(value.name)
        self.clock.version += 1
        return value

    def _disown(self, value: Value) -> None:
        value.owner = None
        self.clock.version += 1

    def _refuse_used(self, value: Value) -> None:
        if value._uses:
            raise QirError(f"value {value.name!r} is still used by {next(iter(value._uses)).node}: replace its uses first")

    def _attach(self, parent: Node) -> None:
        self.parent = parent
        clock = parent.graph.clock if parent.graph is not None else None
        if clock is not None and clock is not self.clock:
            self._share(clock)

    def _share(self, clock: Clock) -> None:
        clock.names |= self.clock.names
        self.clock = clock
        for node in self:
            for graph in node.subgraphs():
                graph._share(clock)

    def __repr__(self) -> str:
        return f"Graph({self.name!r}, {len(self._inputs)} inputs, {self._length} nodes, {len(self.outputs)} outputs)"

    def _repr_html_(self) -> str:
        from qir.drawing import to_html

        return to_html(self)
