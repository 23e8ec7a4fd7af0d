"""Values and nodes, with use lists that are right after every write, and the clock that counts the writes.

A `Value` is owned by one node (a result) or one graph (an input or a constant). The writers are `Node.set_input`,
`Node.set_inputs`, `Node.replace_input`, `Node.set_attribute`, `Value.replace_all_uses_with` and the setters of a
value's type, name and constant. Equality is identity.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, NamedTuple

from qir.attributes import GRAPH_KINDS, Attribute
from qir.errors import QirError
from qir.tensor import Tensor
from qir.types import Type, UnknownType

if TYPE_CHECKING:
    from qir.graph import Graph

UNKNOWN = UnknownType()
QIR_DOMAIN = "qir"
FAKE_QUANT = "fake_quant"


class Clock:
    """What a module and all its graphs share: version counters and the names in use.

    `version` advances with every write except writes of `bits` on fake-quant nodes, which advance `policy_version`.
    An analysis is valid as long as the counters it depends on have not moved. `verified` is what the verifier
    remembers of its last success: both versions it saw and the settings it checked against.
    """

    __slots__ = ("_counts", "names", "policy_version", "verified", "version")

    def __init__(self) -> None:
        self.version = 0
        self.policy_version = 0
        self.verified: tuple[int, int, object] | None = None
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
    index: int  # type: ignore[assignment]  # shadows tuple.index, which nobody asks of a use


class Value:
    """One value of a graph: the result of a node, an input, or a constant.

    An input with a constant is an input that the caller may leave out (ONNX IR version 3 and below).

    Attributes:
        owner: the node or graph that owns the value, None once it is erased.
        index: position among the results of its node, or -1.
        doc_string: ONNX documentation text.
        metadata: serialized key/value pairs (`metadata_props`).
        opaque: protobuf fields of the value's `ValueInfoProto` that qir does not model, as bytes.
        declared: what the file says of the type when inference found out more (that is in `type`), else None; a
            writer writes it back. Setting another type clears it.
        meta: Python objects of passes and analyses; never serialized.
    """

    __slots__ = (
        "_constant",
        "_meta",
        "_name",
        "_type",
        "_uses",
        "declared",
        "doc_string",
        "index",
        "metadata",
        "opaque",
        "owner",
    )

    def __init__(self, name: str | None = None, type: Type | None = None) -> None:  # noqa: A002
        self._name = name
        self._type: Type | None = UNKNOWN if type is None else type
        self._constant: Tensor | None = None
        self._uses: dict[tuple[Node, int], None] = {}
        self._meta: dict[str, Any] | None = None
        self.owner: Node | Graph | None = None
        self.index = -1
        self.doc_string = ""
        self.metadata: dict[str, str] = {}
        self.opaque = b""
        self.declared: Type | None = None

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

    @type.setter  # noqa: A003
    def type(self, type: Type) -> None:  # noqa: A002
        if isinstance(self.owner, Node) and self.owner.is_fake_quant:
            self._type = None
            return
        if type != self._type:
            self._type = type
            self.declared = None
            self._touch()

    @property
    def constant(self) -> Tensor | None:
        """The constant, or None."""
        return self._constant

    @constant.setter
    def constant(self, constant: Tensor | None) -> None:
        if isinstance(self.owner, Node):
            raise QirError(f"value {self.name!r} is a result of {self.owner}: only inputs and constants hold a tensor")
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
        return self.owner is not None and not isinstance(self.owner, Node) and self in self.owner._input_set

    @property
    def is_output(self) -> bool:
        """Whether a graph returns the value."""
        return any(node.is_return for node, _ in self._uses)

    @property
    def uses(self) -> tuple[Use, ...]:
        """A snapshot of the uses, in the order in which they were made."""
        return tuple(map(Use._make, self._uses))

    @property
    def users(self) -> tuple[Node, ...]:
        """The nodes that use the value, each once, `return` nodes included."""
        return tuple({node: None for node, _ in self._uses})

    def replace_all_uses_with(self, other: Value) -> None:
        """Make every user (and every graph that returns it) use `other`; a graph's output names stay."""
        if other is self:
            return
        for node in self.users:
            node.replace_input(self, other)

    def _clock(self) -> Clock | None:
        owner = self.owner
        graph = owner.graph if isinstance(owner, Node) else owner
        return None if graph is None else graph.clock

    def _touch(self) -> None:
        clock = self._clock()
        if clock is None:
            return
        clock.version += 1
        if isinstance(self.owner, Node):
            self.owner.stamp = clock.version
        for node, _ in self._uses:
            node.stamp = clock.version
            if node.is_fake_quant:
                node.results[0]._type = None

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
        opaque: protobuf fields of the node that qir does not model, as bytes.
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
        "opaque",
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
            if value.owner is not None:
                raise QirError(f"value {value.name!r} is owned already by {value.owner}: a result belongs to one node")
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
        self.opaque = b""
        for key, value in (attributes or {}).items():
            self.set_attribute(key, value)
        self._inputs = tuple(inputs)
        for index, operand in enumerate(self._inputs):
            if operand is not None:
                operand._uses[self, index] = None
        if self.is_fake_quant:
            self.results[0]._type = None

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
        if not self._attributes:
            return ()
        found = [attribute for attribute in self._attributes.values() if attribute.kind in GRAPH_KINDS]
        return tuple(graph for attribute in found for graph in attribute.graphs())

    def set_input(self, index: int, value: Value | None) -> None:
        """Make operand `index` another value, or leave it out."""
        old = self._inputs[index]
        if old is value:
            return
        if old is not None:
            del old._uses[self, index]
        if value is not None:
            value._uses[self, index] = None
        self._inputs = (*self._inputs[:index], value, *self._inputs[index + 1 :])
        self._touch()

    def set_inputs(self, values: Iterable[Value | None]) -> None:
        """Replace all operands; their number may change."""
        for index, old in enumerate(self._inputs):
            if old is not None:
                del old._uses[self, index]
        self._inputs = tuple(values)
        for index, value in enumerate(self._inputs):
            if value is not None:
                value._uses[self, index] = None
        self._touch()

    def replace_input(self, old: Value, new: Value | None) -> None:
        """Make every operand that is `old` another value, or leave it out."""
        for index, value in enumerate(self._inputs):
            if value is old:
                del old._uses[self, index]
                if new is not None:
                    new._uses[self, index] = None
        self._inputs = tuple(new if value is old else value for value in self._inputs)
        self._touch()

    def set_attribute(self, name: str, value: Any) -> None:
        """Set an attribute from a Python value or an `Attribute`; None removes it.

        Writing `bits` on a fake-quant node advances only the module's `policy_version`.
        """
        for graph in self._attributes[name].graphs() if name in self._attributes else ():
            if graph.parent is self:
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
