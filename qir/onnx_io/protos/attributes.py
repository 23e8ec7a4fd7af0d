"""Attributes to and from `AttributeProto`; graphs are read and written by the caller."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import onnx

from qir.attributes import Attribute, AttributeKind
from qir.errors import ModelFileError
from qir.graph import Graph
from qir.onnx_io.protos.external import DataFolder
from qir.onnx_io.protos.metadata import text
from qir.onnx_io.protos.opaque import unmodelled
from qir.onnx_io.protos.tensors import read_tensor, write_tensor
from qir.onnx_io.protos.types import TypeReader, write_type
from qir.tensor import Tensor

_FIELD = {
    AttributeKind.FLOAT: "f",
    AttributeKind.INT: "i",
    AttributeKind.STRING: "s",
    AttributeKind.TENSOR: "t",
    AttributeKind.GRAPH: "g",
    AttributeKind.SPARSE_TENSOR: "sparse_tensor",
    AttributeKind.TYPE: "tp",
    AttributeKind.FLOATS: "floats",
    AttributeKind.INTS: "ints",
    AttributeKind.STRINGS: "strings",
    AttributeKind.TENSORS: "tensors",
    AttributeKind.GRAPHS: "graphs",
    AttributeKind.SPARSE_TENSORS: "sparse_tensors",
    AttributeKind.TYPES: "type_protos",
}
_KINDS: dict[int, AttributeKind] = {int(kind): kind for kind in AttributeKind}
_PLAIN = {AttributeKind.FLOAT, AttributeKind.INT, AttributeKind.STRING}
_SINGULAR = _PLAIN | {AttributeKind.TENSOR, AttributeKind.GRAPH, AttributeKind.TYPE, AttributeKind.SPARSE_TENSOR}
_PLAIN_LISTS = {AttributeKind.FLOATS, AttributeKind.INTS, AttributeKind.STRINGS}


class AttributeReader:
    """Reads attributes.

    Args:
        folder: where external data lie.
        types: reader of types.
        read_graph: reads a graph attribute.

    Attributes:
        all_told: whether every attribute so far told its kind.
    """

    def __init__(self, folder: DataFolder, types: TypeReader, read_graph: Callable[[onnx.GraphProto], Graph]) -> None:
        self.all_told = True
        self._convert: dict[AttributeKind, Callable[[Any], Any]] = {
            AttributeKind.TENSOR: lambda proto: read_tensor(proto, folder),
            AttributeKind.GRAPH: read_graph,
            AttributeKind.TYPE: types.read_exact,
            AttributeKind.SPARSE_TENSOR: lambda proto: proto.SerializeToString(),
        }
        for singular, plural in (
            (AttributeKind.TENSOR, AttributeKind.TENSORS),
            (AttributeKind.GRAPH, AttributeKind.GRAPHS),
            (AttributeKind.TYPE, AttributeKind.TYPES),
            (AttributeKind.SPARSE_TENSOR, AttributeKind.SPARSE_TENSORS),
        ):
            self._convert[plural] = _each(self._convert[singular])

    def read(self, proto: onnx.AttributeProto) -> Attribute:
        """Return the attribute of a message.

        Raises:
            ModelFileError: its kind is unknown, or its value invalid.
        """
        kind = _KINDS.get(proto.type)
        if not kind:
            kind, self.all_told = _kind_of(proto), False
        reference = text(proto.ref_attr_name)
        if not reference and _is_empty(proto, kind):
            _check_empty(proto, kind)
        if reference:
            value = None
        elif kind in _PLAIN:
            value = getattr(proto, _FIELD[kind])
        elif kind in _PLAIN_LISTS:
            value = tuple(getattr(proto, _FIELD[kind]))
        else:
            value = self._convert[kind](getattr(proto, _FIELD[kind]))
        return Attribute(kind, value, text(proto.doc_string), reference, unmodelled(proto))


def _each(convert: Callable[[Any], Any]) -> Callable[[Any], Any]:
    return lambda protos: tuple(convert(proto) for proto in protos)


def _is_empty(proto: onnx.AttributeProto, kind: AttributeKind) -> bool:
    """Return whether the field of a kind is absent."""
    return not (proto.HasField(_FIELD[kind]) if kind in _SINGULAR else len(getattr(proto, _FIELD[kind])))


def _check_empty(proto: onnx.AttributeProto, kind: AttributeKind) -> None:
    """Refuse an attribute whose value is of another kind than it tells: ONNX's checker and runtimes refuse it too."""
    held = sorted({field.name for field, _ in proto.ListFields()} & set(_FIELD.values()))
    if held:
        raise ModelFileError(
            f"attribute {proto.name!r}: its kind is {kind.name}, its value stands in {held[0]!r}: the file is damaged"
        )


def _kind_of(proto: onnx.AttributeProto) -> AttributeKind:
    """Return the kind of an attribute that does not tell it (files before IR version 2, or a kind from the future)."""
    if proto.type:
        raise ModelFileError(f"attribute {proto.name!r}: kind {proto.type} is unknown; it is newer than this qir")
    present = {field.name for field, _ in proto.ListFields()}
    for kind, name in _FIELD.items():
        if name in present:
            return kind
    raise ModelFileError(f"attribute {proto.name!r} has neither a kind nor a value: the file is damaged")


def _write_plain(proto: onnx.AttributeProto, field: str, value: Any, *, repeated: bool) -> None:
    try:
        if repeated:
            getattr(proto, field).extend(value)
        else:
            setattr(proto, field, value)
    except (ValueError, TypeError) as error:
        raise ModelFileError(f"attribute {proto.name!r} cannot be written to ONNX: {error}") from error


def write_attribute(
    name: str, attribute: Attribute, proto: onnx.AttributeProto, write_graph: Callable[[Graph, onnx.GraphProto], None]
) -> None:
    """Fill an `AttributeProto`.

    Raises:
        ModelFileError: the elements of a tensor cannot be read.
    """
    if attribute.opaque:
        proto.MergeFromString(attribute.opaque)
    proto.name = name
    proto.type = int(attribute.kind)  # type: ignore[assignment]
    if attribute.doc_string:
        proto.doc_string = attribute.doc_string
    if attribute.reference:
        proto.ref_attr_name = attribute.reference
        return
    kind, value = attribute.kind, attribute.value
    field = _FIELD.get(kind)
    if field is None:
        raise ModelFileError(f"attribute {name!r} has kind {kind.name}: an attribute without a kind cannot be written")
    if kind in _PLAIN or kind in _PLAIN_LISTS:
        _write_plain(proto, field, value, repeated=kind in _PLAIN_LISTS)
    elif isinstance(value, tuple):
        for item in value:
            _write_message(item, getattr(proto, field).add(), write_graph)
    else:
        message = getattr(proto, field)
        message.SetInParent()
        _write_message(value, message, write_graph)


def _write_message(value: Any, message: Any, write_graph: Callable[[Graph, onnx.GraphProto], None]) -> None:
    if isinstance(value, Graph):
        write_graph(value, message)
    elif isinstance(value, Tensor):
        message.MergeFromString(b"".join(write_tensor(value, value.name)))
    elif isinstance(value, bytes):
        message.MergeFromString(value)
    else:
        write_type(value, message)
