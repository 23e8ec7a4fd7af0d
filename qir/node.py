"""Nodes: operations whose writers keep the use lists of their operands right and advance the module's clock.

The writers are `Node.set_input`, `Node.set_inputs`, `Node.replace_input` and `Node.set_attribute`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from qir.attributes import GRAPH_KINDS, Attribute
from qir.errors import QirError
from qir.value import Value

if TYPE_CHECKING:
    from qir.graph import Graph

QIR_DOMAIN = "qir"
FAKE_QUANT = "fake_quant"


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
    def label(self) -> str:
        """The name, else that of the first result, else the op: what messages call the node, not always unique."""
        return self._name or (self.results[0].name if self.results else "") or self.op.lower()

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
        """Return an attribute's value as plain Python (int, float, str, tuple, `Tensor`, `Graph`), or `default`."""
        found = self._attributes.get(name)
        return default if found is None else found.python()

    def input(self, index: int) -> Value | None:
        """Return operand `index`, None when it is left out."""
        return self._inputs[index] if index < len(self._inputs) else None

    def operand(self, index: int) -> Value:
        """Return operand `index`, which has to be there.

        Raises:
            QirError: it is left out.
        """
        found = self._inputs[index] if index < len(self._inputs) else None
        if found is None:
            raise QirError(f"node {self.label!r}: operand {index} of {self.op} is missing; give it a value")
        return found

    @property
    def scope(self) -> Graph:
        """The graph that the node stands in.

        Raises:
            QirError: it stands in none.
        """
        if self.graph is None:
            raise QirError(f"node {self.label!r}: this {self.op} stands in no graph; insert it first")
        return self.graph

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
        """Return graphs among the attributes (the branches of If, the bodies of Loop and Scan)."""
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
