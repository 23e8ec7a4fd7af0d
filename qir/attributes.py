"""Attributes of nodes: immutable values of ONNX's attribute kinds."""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from qir.errors import QirError
from qir.tensor import Tensor
from qir.types import OpaqueType, OptionalType, SequenceType, TensorType, UnknownType

if TYPE_CHECKING:
    from qir.graph import Graph


class AttributeKind(enum.IntEnum):
    """Kinds of attributes with the codes of ONNX's `AttributeProto.AttributeType`."""

    UNDEFINED = 0
    FLOAT = 1
    INT = 2
    STRING = 3
    TENSOR = 4
    GRAPH = 5
    FLOATS = 6
    INTS = 7
    STRINGS = 8
    TENSORS = 9
    GRAPHS = 10
    SPARSE_TENSOR = 11
    SPARSE_TENSORS = 12
    TYPE = 13
    TYPES = 14


@dataclass(frozen=True, slots=True, eq=False)
class Attribute:
    """One attribute: its kind and its value.

    Values: FLOAT float, INT int, STRING bytes, TENSOR `Tensor`, GRAPH `Graph`, TYPE a type; the plural kinds are
    tuples of these; sparse tensors are the bytes of their protobuf message. Inside a function, `reference` names
    the function's attribute whose value is taken instead. `opaque` holds protobuf fields that qir does not model.
    """

    kind: AttributeKind
    value: Any
    doc_string: str = ""
    reference: str = ""
    opaque: bytes = b""

    @staticmethod
    def of(value: Any) -> Attribute:
        """Return an attribute from a Python value; strings become UTF-8 bytes, empty tuples INTS.

        Raises:
            QirError: the value is of no attribute kind.
        """
        if isinstance(value, Attribute):
            return value
        if isinstance(value, tuple | list):
            items = [Attribute.of(v) for v in value]
            kinds = {item.kind for item in items} or {AttributeKind.INT}
            if kinds == {AttributeKind.INT, AttributeKind.FLOAT}:
                kinds, items = {AttributeKind.FLOAT}, [Attribute.of(float(v)) for v in value]
            plural = _PLURAL.get(kinds.pop()) if len(kinds) == 1 else None
            if plural is None:
                raise QirError(f"attribute {value!r}: a list holds values of one kind")
            return Attribute(plural, tuple(item.value for item in items))
        return Attribute(_scalar_kind(value), value.encode() if isinstance(value, str) else _plain(value))

    def python(self) -> Any:
        """Return the value as plain Python: bytes decoded to text where they are UTF-8."""
        if self.kind is AttributeKind.STRING:
            return _text(self.value)
        if self.kind is AttributeKind.STRINGS:
            return tuple(_text(v) for v in self.value)
        return self.value

    def graphs(self) -> tuple[Graph, ...]:
        """Return the graphs inside."""
        if self.kind is AttributeKind.GRAPH and not self.reference:
            return (self.value,)
        return tuple(self.value) if self.kind is AttributeKind.GRAPHS else ()


GRAPH_KINDS = (AttributeKind.GRAPH, AttributeKind.GRAPHS)
"""Kinds of attributes that hold graphs."""

_PLURAL = {
    AttributeKind.FLOAT: AttributeKind.FLOATS,
    AttributeKind.INT: AttributeKind.INTS,
    AttributeKind.STRING: AttributeKind.STRINGS,
    AttributeKind.TENSOR: AttributeKind.TENSORS,
    AttributeKind.GRAPH: AttributeKind.GRAPHS,
    AttributeKind.TYPE: AttributeKind.TYPES,
}


def _plain(value: Any) -> Any:
    return int(value) if isinstance(value, bool) else value


def _text(value: bytes) -> str | bytes:
    try:
        return value.decode()
    except UnicodeDecodeError:
        return value


def _scalar_kind(value: Any) -> AttributeKind:
    if isinstance(value, int):
        return AttributeKind.INT
    if isinstance(value, float):
        return AttributeKind.FLOAT
    if isinstance(value, str | bytes):
        return AttributeKind.STRING
    if isinstance(value, Tensor):
        return AttributeKind.TENSOR
    if isinstance(value, TensorType | UnknownType | SequenceType | OptionalType | OpaqueType):
        return AttributeKind.TYPE
    from qir.graph import Graph

    if isinstance(value, Graph):
        return AttributeKind.GRAPH
    raise QirError(f"attribute {value!r}: a {type(value).__name__} is of no attribute kind")
