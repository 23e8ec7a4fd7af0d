"""Protobuf's wire format, as far as large files need it: constants are cut out of a model and put back, never copied.

A model is a message whose field `graph` is a message with a repeated field `initializer`. Everything else of a model
is small. `split_model` returns that small rest and a view of every initializer, `split_tensor` the same for the raw
bytes of one tensor, and `field` is the way back. Format: protobuf.dev, "Encoding".
"""

from __future__ import annotations

from collections.abc import Iterator

from qir.errors import ModelFileError

MODEL_GRAPH = 7
GRAPH_INITIALIZER = 5
TENSOR_RAW_DATA = 9

_VARINT, _FIXED64, _BYTES, _GROUP, _GROUP_END, _FIXED32 = 0, 1, 2, 3, 4, 5

Piece = bytes | memoryview
"""A part of a message; pieces are written one after another and never joined when they are large."""


def varint(value: int) -> bytes:
    """Return a non-negative integer as a varint."""
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def field(number: int, pieces: list[Piece]) -> list[Piece]:
    """Return a length-delimited field around pieces."""
    length = sum(map(len, pieces))
    return [varint(number << 3 | _BYTES) + varint(length), *pieces]


def _read_varint(data: memoryview, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
        shift += 7
        if shift > 63:
            raise ModelFileError("the file is not an ONNX model or is damaged: a number in it has more than 64 bits")


def _fields(data: memoryview) -> Iterator[tuple[int, int, int, int, int]]:
    """Yield fields of a message: number, wire type, start of the field, start and end of its contents."""
    at, end = 0, len(data)
    while at < end:
        start = at
        tag = data[at]
        if tag < 0x80:
            at += 1
        else:
            tag, at = _read_varint(data, at)
        wire = tag & 7
        body = at
        if wire == _BYTES:
            length, body = data[at], at + 1
            if length >= 0x80:
                length, body = _read_varint(data, at)
            at = body + length
        elif wire == _VARINT:
            _, at = _read_varint(data, at)
        elif wire in (_FIXED64, _FIXED32):
            at += 8 if wire == _FIXED64 else 4
        else:
            raise ModelFileError(f"the file is not an ONNX model or is damaged: wire type {wire} at byte {start}")
        if at > end:
            raise ModelFileError(f"the file is truncated: a field ends {at - end} bytes after its end")
        yield tag >> 3, wire, start, body, at


def _cut(data: memoryview, number: int) -> tuple[list[Piece], list[memoryview]]:
    """Return a message without one length-delimited field, and the contents of that field."""
    rest: list[Piece] = []
    found: list[memoryview] = []
    kept = 0
    try:
        for this, wire, start, body, end in _fields(data):
            if this == number and wire == _BYTES:
                if start > kept:
                    rest.append(data[kept:start])
                found.append(data[body:end])
                kept = end
    except IndexError:
        raise ModelFileError("the file is truncated: it ends inside a number") from None
    rest.append(data[kept:])
    return rest, found


def split_model(data: memoryview) -> tuple[bytes, list[memoryview]]:
    """Return a serialized `ModelProto` without the main graph's initializers, and these.

    Raises:
        ModelFileError: the bytes are not protobuf message, or are truncated.
    """
    rest, graphs = _cut(data, MODEL_GRAPH)
    initializers: list[memoryview] = []
    for graph in graphs:
        skeleton, found = _cut(graph, GRAPH_INITIALIZER)
        rest += field(MODEL_GRAPH, skeleton)
        initializers += found
    return b"".join(rest), initializers


def split_tensor(data: memoryview) -> tuple[bytes, memoryview | None]:
    """Return a serialized `TensorProto` without its raw data, and the raw data or None.

    Raises:
        ModelFileError: the bytes are not protobuf message.
    """
    rest, raw = _cut(data, TENSOR_RAW_DATA)
    return b"".join(rest), raw[-1] if raw else None
