"""Types from their text: the inverse of `str()` on the types of `qir.types`."""

from __future__ import annotations

import re
from typing import Any

from qir.errors import ParseError, QirError
from qir.text.cursor import Cursor
from qir.types import (
    Dim,
    DType,
    OpaqueType,
    OptionalType,
    QuantType,
    SequenceType,
    TensorType,
    Type,
    UnknownType,
    tensor_type,
)

_LABEL = re.compile(r"[a-z]\w*")
_NUMBER = re.compile(r"-?[\d.]+(?:e[+-]?\d+)?")
_HEX = re.compile(r"(?:[0-9a-f]{2})*")
_SIMPLE = re.compile(r"tensor<\[[\d,?]*\]x[a-z]\w*>")
_simple_types: dict[str, Type] = {}


def read_type(cursor: Cursor) -> Type:
    """Read a type at the cursor; `ParseError` where the text is not a type, `TypeVerifyError` where it is not valid."""
    simple = _SIMPLE.match(cursor.text, cursor.at)
    if simple is not None and not simple.group().endswith("quant>"):
        text = simple.group()
        found = _simple_types.get(text)
        if found is None:
            if len(_simple_types) > 10_000:
                _simple_types.clear()
            found = _simple_types[text] = _read_general(cursor)
        else:
            cursor.at = simple.end()
            cursor.skip()
        return found
    return _read_general(cursor)


def _read_general(cursor: Cursor) -> Type:
    if cursor.accept("tensor<"):
        return _tensor(cursor)
    if cursor.accept("sequence<"):
        sequence = SequenceType(read_type(cursor))
        cursor.expect(">")
        return sequence
    if cursor.accept("optional<"):
        optional = OptionalType(read_type(cursor))
        cursor.expect(">")
        return optional
    if cursor.accept("opaque<"):
        raw = bytes.fromhex(cursor.need(_HEX, "hexadecimal bytes"))
        cursor.expect(">")
        return OpaqueType(raw)
    if cursor.accept_word("unknown"):
        return UnknownType()
    return cursor.fail("a type: tensor<…>, sequence<…>, optional<…>, opaque<…> or unknown")


def _tensor(cursor: Cursor) -> TensorType:
    shape: tuple[Dim, ...] | None = None
    if not cursor.accept("*"):
        cursor.expect("[")
        dims: list[Dim] = []
        while not cursor.accept("]"):
            if dims:
                cursor.expect(",")
            dims.append(_dim(cursor))
        shape = tuple(dims)
    cursor.expect("x")
    element = _quant(cursor) if cursor.accept("quant<") else DType.from_label(cursor.need(_LABEL, "an element type"))
    cursor.expect(">")
    return tensor_type(element, shape)


def _dim(cursor: Cursor) -> Dim:
    if cursor.accept("?"):
        return None
    return cursor.string() if cursor.peek() == '"' else cursor.integer()


def _quant(cursor: Cursor) -> QuantType:
    signed = cursor.accept("s")
    if not signed:
        cursor.expect("u")
    fields: dict[str, Any] = {"signed": signed}
    fields["bits"] = _list(cursor, int) if cursor.peek() == "[" else cursor.integer()
    fields["scheme"] = cursor.string() if cursor.peek() == '"' else cursor.word("a quantizing scheme")
    fields["narrow"] = cursor.accept_word("narrow")
    for name in ("axis", "block"):
        if cursor.accept(f"{name}="):
            fields[name] = cursor.integer()
    for name, convert in (("low", float), ("high", float), ("scale", float), ("zero_point", int)):
        if cursor.accept(f"{name}="):
            fields[name] = _list(cursor, convert)
    if cursor.accept("levels="):
        fields["levels"] = _levels(cursor)
    cursor.expect(">")
    return QuantType(**fields)


def _list(cursor: Cursor, convert: type[int | float]) -> tuple[Any, ...]:
    cursor.expect("[")
    found: list[int | float] = []
    while not cursor.accept("]"):
        if found:
            cursor.expect(",")
        found.append(_number(cursor, convert))
    return tuple(found)


def _levels(cursor: Cursor) -> tuple[tuple[float, ...], ...]:
    cursor.expect("[")
    rows: list[tuple[float, ...]] = []
    while True:
        row = [float(_number(cursor, float))]
        while cursor.accept(","):
            row.append(float(_number(cursor, float)))
        rows.append(tuple(row))
        if not cursor.accept(";"):
            break
    cursor.expect("]")
    return tuple(rows)


def _number(cursor: Cursor, convert: type[int | float]) -> int | float:
    text = cursor.need(_NUMBER, "a number")
    try:
        return convert(text)
    except ValueError:
        raise ParseError(f"{text!r} is not a {convert.__name__}") from None


def parse_type(text: str) -> Type:
    """Read the type that `str()` of a type wrote.

    Raises:
        ParseError: the text is not a type, or a type that breaks one of its constraints.
    """
    cursor = Cursor(text)
    try:
        found = read_type(cursor)
    except QirError as error:
        raise ParseError(f"type {text!r}: {error}") from error
    if cursor.at != len(text):
        cursor.fail("the end of the type")
    return found
