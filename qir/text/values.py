"""Text of numbers, strings, tensors and their annotations, and back, to the last bit."""

from __future__ import annotations

import base64
import binascii
import json
import math
import re
import struct
from collections.abc import Mapping
from typing import Any, Protocol

import numpy as np

from qir.errors import ModelFileError, ParseError
from qir.tensor import Array, Tensor, numpy_dtype
from qir.text.cursor import Cursor
from qir.text.types import read_type
from qir.types import DType, TensorType

LONGEST_LIST = 16
"""Tensors of at most this many elements are written as numbers, longer ones as base64."""

_PLAIN_NAME = re.compile(r"[\w.$/\-]+(?::[\w.$/\-]+)*", re.ASCII)
NUMBER = re.compile(r"-?(?:inf|\d+(?:\.\d*)?(?:e[+-]?\d+)?d?)|nan(?::[0-9a-f]{16})?")
_INTEGER = re.compile(r"-?\d+")
_FLOAT32 = struct.Struct("<f")
_FLOAT64 = struct.Struct("<d")
_NAN = _FLOAT64.pack(math.nan)
_LISTED_FLOATS = {DType.FLOAT16, DType.BFLOAT16, DType.FLOAT32, DType.FLOAT64}
_LISTED_INTS = {
    DType.BOOL,
    DType.INT8,
    DType.INT16,
    DType.INT32,
    DType.INT64,
    DType.UINT8,
    DType.UINT16,
    DType.UINT32,
    DType.UINT64,
}


class Annotated(Protocol):
    """What carries documentation, metadata and opaque fields: modules, functions, graphs, nodes, values, tensors."""

    doc_string: str
    metadata: dict[str, str]
    opaque: bytes


def name_text(name: str) -> str:
    """`%name`, quoted where the name is not plain."""
    return "%" + (name if _PLAIN_NAME.fullmatch(name) else json.dumps(name))


def read_name(cursor: Cursor) -> str:
    """Read a `%name`."""
    if cursor.peek() != "%":
        cursor.fail("a value: %name")
    cursor.at += 1
    return cursor.string() if cursor.peek() == '"' else cursor.need(_PLAIN_NAME, "the name of a value")


def float_text(number: float) -> str:
    """Return the shortest text of a float32; other doubles end in `d`; payloads of NaN are kept."""
    if math.isnan(number):
        packed = _FLOAT64.pack(number)
        return "nan" if packed == _NAN else f"nan:{packed.hex()}"
    if math.isinf(number):
        return "inf" if number > 0 else "-inf"
    try:
        (single,) = _FLOAT32.unpack(_FLOAT32.pack(number))
    except OverflowError:
        return f"{number!r}d"
    text = str(np.float32(number)) if single == number else ""
    return text if text and _to_single(float(text)) == number else f"{number!r}d"


def _to_single(number: float) -> float:
    single: float = _FLOAT32.unpack(_FLOAT32.pack(number))[0]
    return single


def read_number(text: str) -> int | float:
    """Return the number that a text writes: digits alone are an int, everything else a float."""
    if _INTEGER.fullmatch(text):
        return int(text)
    if text.startswith("nan:"):
        payload: float = _FLOAT64.unpack(bytes.fromhex(text[4:]))[0]
        return payload
    if text.endswith("d"):
        return float(text[:-1])
    try:
        return _to_single(float(text))
    except OverflowError:
        raise ParseError(f"{text} is not a float32; a double ends in d") from None


def bytes_text(data: bytes) -> str:
    """Return a JSON string where the bytes are UTF-8, else `x"…"` in hexadecimal."""
    try:
        return json.dumps(data.decode())
    except UnicodeDecodeError:
        return f'x"{data.hex()}"'


def read_bytes(cursor: Cursor) -> bytes:
    """Read what `bytes_text` wrote."""
    if not cursor.text.startswith('x"', cursor.at):
        return cursor.string().encode()
    cursor.at += 1
    text = cursor.string()
    try:
        return bytes.fromhex(text)
    except ValueError:
        raise ParseError(f"x{text!r} is not hexadecimal") from None


def annotations_text(owner: Annotated) -> str:
    """Return documentation, metadata and opaque fields; empty when there are none."""
    parts = ""
    if owner.doc_string:
        parts = f" doc {json.dumps(owner.doc_string)}"
    if owner.metadata:
        parts += f" metadata {json.dumps(owner.metadata)}"
    if owner.opaque:
        parts += f' opaque x"{owner.opaque.hex()}"'
    return parts


def read_annotations(cursor: Cursor, owner: Annotated) -> None:
    """Read what `annotations_text` wrote."""
    if cursor.peek() not in {"d", "m", "o"}:
        return
    if cursor.accept_word("doc"):
        owner.doc_string = cursor.string()
    if cursor.accept_word("metadata"):
        cursor.expect("{")
        pairs: dict[str, str] = {}
        while not cursor.accept("}"):
            if pairs:
                cursor.expect(",")
            key = cursor.string()
            cursor.expect(":")
            pairs[key] = cursor.string()
        owner.metadata = pairs
    if cursor.accept_word("opaque"):
        owner.opaque = read_bytes(cursor)


def tensor_text(tensor: Tensor, *, inline: bool, implied_name: str = "") -> str:
    """`dense<type data …>`; the data are numbers, base64, or with `inline` false the digest of longer tensors.

    The data of a sparse initializer are `sparse` and its message: it stays sparse.
    """
    data = _data_text(tensor, inline=inline)
    name = f" name {json.dumps(tensor.name)}" if tensor.name != implied_name else ""
    return f"dense<{tensor.type} {data}{name}{annotations_text(tensor)}>"


def _data_text(tensor: Tensor, *, inline: bool) -> str:
    if inline and tensor.sparse is not None:
        return f'sparse x"{tensor.sparse.hex()}"'
    if tensor.size <= LONGEST_LIST:
        array = tensor.numpy()
        flat = array.reshape(-1)
        if tensor.dtype in _LISTED_INTS:
            return f"[{', '.join(str(int(n)) for n in flat)}]"
        if tensor.dtype in _LISTED_FLOATS and not np.isnan(flat).any():
            return f"[{', '.join(float_text(float(n)) for n in flat)}]"
    if not inline:
        return f"sha256:{tensor.digest()}"
    if tensor.dtype is DType.STRING:
        return f"[{', '.join(map(_element_text, tensor.numpy().reshape(-1)))}]"
    array = np.ascontiguousarray(tensor.numpy())
    return f'b64"{base64.b64encode(array.tobytes()).decode()}"'


def _element_text(element: str | bytes) -> str:
    return bytes_text(element) if isinstance(element, bytes) else f"u{json.dumps(str(element))}"


def read_tensor(cursor: Cursor, constants: Mapping[str, Tensor], implied_name: str = "") -> Tensor:
    """Read what `tensor_text` wrote.

    Raises:
        ParseError: the text is wrong, or a digest is not among `constants`.
    """
    cursor.expect("dense<")
    declared = read_type(cursor)
    if not isinstance(declared, TensorType) or declared.static_shape() is None:
        cursor.fail(f"a tensor type with known dimensions instead of {declared}")
    shape = declared.static_shape() or ()
    if cursor.accept("sha256:"):
        tensor = _from_store(cursor, declared, constants)
    elif cursor.accept_word("sparse"):
        tensor = _read_sparse(cursor, declared)
    else:
        array = _read_array(cursor, declared.dtype)
        if array.size != math.prod(shape):
            cursor.fail(f"{math.prod(shape)} elements instead of {array.size}")
        tensor = Tensor.of(array.reshape(shape), dtype=declared.dtype)
    tensor.name = cursor.string() if cursor.accept_word("name") else implied_name
    read_annotations(cursor, tensor)
    cursor.expect(">")
    return tensor


_DIGEST = re.compile(r"[0-9a-f]{64}")


def _from_store(cursor: Cursor, declared: TensorType, constants: Mapping[str, Tensor]) -> Tensor:
    digest = cursor.need(_DIGEST, "the digest of a constant")
    found = constants.get(digest)
    if found is None:
        raise ParseError(
            f"constant sha256:{digest} is not in the store: pass constants=qir.text.printer.constants_of(module)"
        )
    if found.type != declared:
        cursor.fail(f"the type of the stored constant, {found.type}")
    return Tensor(found.dtype, found.shape, found.numpy, source=None if found.sparse is None else found.source)


def _read_sparse(cursor: Cursor, declared: TensorType) -> Tensor:
    from qir.onnx_io.protos.tensors import sparse_of

    try:
        tensor = sparse_of(read_bytes(cursor))
    except ModelFileError as error:
        raise ParseError(str(error)) from None
    if tensor.type != declared:
        cursor.fail(f"the type of the sparse tensor, {tensor.type}")
    return tensor


def _read_array(cursor: Cursor, dtype: DType) -> Array:
    if cursor.text.startswith('b64"', cursor.at):
        start = cursor.at + 4
        end = cursor.text.find('"', start)
        if end < 0:
            cursor.fail("closed base64 text")
        data = cursor.text[start:end]
        cursor.at = end + 1
        cursor.skip()
        try:
            return np.frombuffer(base64.b64decode(data, validate=True), numpy_dtype(dtype))
        except (ValueError, binascii.Error):
            raise ParseError(f"the base64 text of a tensor of {dtype} is damaged") from None
    cursor.expect("[")
    items: list[Any] = []
    while not cursor.accept("]"):
        if items:
            cursor.expect(",")
        items.append(_read_element(cursor, dtype))
    if dtype is DType.STRING:
        strings = np.empty(len(items), object)
        strings[:] = items
        return strings
    try:
        return np.array(items, np.float64 if dtype in _LISTED_FLOATS else numpy_dtype(dtype)).astype(numpy_dtype(dtype))
    except (OverflowError, ValueError, TypeError):
        return cursor.fail(f"elements of {dtype}")


def _read_element(cursor: Cursor, dtype: DType) -> Any:
    if dtype is not DType.STRING:
        return read_number(cursor.need(NUMBER, "a number"))
    if cursor.accept("u"):
        return cursor.string()
    return read_bytes(cursor)
