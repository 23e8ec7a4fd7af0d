"""Values: results of nodes, inputs and constants of graphs, with use lists that are right after every write."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple, cast

from qir.errors import QirError
from qir.quantized_type import quantized_type
from qir.tensor import Tensor
from qir.types import Dim, DType, TensorType, Type, UnknownType

if TYPE_CHECKING:
    from qir.clock import Clock
    from qir.graph import Graph
    from qir.node import Node

UNKNOWN = UnknownType()


class Use(NamedTuple):
    """One use of a value: operand `index` of `node`."""

    node: Node
    index: int  # type: ignore[assignment]  # shadows tuple.index, which nobody asks of a use


class Value:
    """One value of a graph: the result of a node, an input, or a constant.

    An input with a constant is an input that the caller may leave out (ONNX IR version 3 and below).

    Attributes:
        owner: the node or graph that owns the value, None once it is erased.
        index: position among the results of its node; -1 for an input or a constant.
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
            node = cast("Node", self.owner)
            source = node.input(0)
            self._type = quantized_type(UNKNOWN if source is None else source.type, node.attribute)
        return self._type

    @type.setter  # noqa: A003
    def type(self, type: Type) -> None:  # noqa: A002
        if (producer := self.producer) is not None and producer.is_fake_quant:
            if type == self.type:
                return
            raise QirError(
                f"value {self.name!r}: its type follows from the attributes of its quantizer and is {self.type}, not "
                f"{type}: write bits, widths or ranges of node {producer.name!r} instead"
            )
        if type != self._type:
            self._type = type
            self.declared = None
            self._touch()

    @property
    def tensor_type(self) -> TensorType:
        """The type, which has to be that of a tensor.

        Raises:
            QirError: it is not known, or is that of a sequence, a map or an optional.
        """
        known = self.type
        if not isinstance(known, TensorType):
            raise QirError(f"value {self.name!r}: its type is {known}; expected a tensor: run infer-types")
        return known

    @property
    def shape(self) -> tuple[Dim, ...] | None:
        """Sizes (int), symbols (str) and unknown dimensions (None); None where the rank is not known or no tensor."""
        known = self.type
        return known.shape if isinstance(known, TensorType) else None

    @property
    def rank(self) -> int | None:
        """Number of dimensions; None where it is not known or the value is not a tensor."""
        shape = self.shape
        return None if shape is None else len(shape)

    @property
    def dtype(self) -> DType | None:
        """Plain element type (float32 for a value on a grid); None where it is not known or no tensor."""
        known = self.type
        return known.dtype if isinstance(known, TensorType) else None

    @property
    def node(self) -> Node:
        """The node whose result this is.

        Raises:
            QirError: it is an input or a constant.
        """
        found = self.producer
        if found is None:
            raise QirError(f"value {self.name!r}: is an input or a constant; expected the result of a node")
        return found

    @property
    def constant(self) -> Tensor | None:
        """The constant, or None."""
        return self._constant

    @constant.setter
    def constant(self, constant: Tensor | None) -> None:
        if self.producer is not None:
            raise QirError(f"value {self.name!r} is a result of {self.owner}: only inputs and constants hold a tensor")
        self._constant = constant
        self._touch()

    @property
    def producer(self) -> Node | None:
        """The node whose result this is, or None."""
        return cast("Node", self.owner) if self.index >= 0 else None

    @property
    def is_constant(self) -> bool:
        """Whether the value is a constant that no caller can replace."""
        return self._constant is not None and not self.is_input

    @property
    def is_input(self) -> bool:
        """Whether the value is an input of a graph."""
        return self.index < 0 and self.owner is not None and self in cast("Graph", self.owner)._input_set

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
        producer = self.producer
        graph = cast("Graph | None", self.owner) if producer is None else producer.graph
        return None if graph is None else graph.clock

    def _touch(self) -> None:
        clock = self._clock()
        if clock is None:
            return
        clock.version += 1
        if (producer := self.producer) is not None:
            producer.stamp = clock.version
        for node, _ in self._uses:
            node.stamp = clock.version
            if node.is_fake_quant:
                node.results[0]._type = None

    def __repr__(self) -> str:
        return f"%{self.name}: {self.type}"
