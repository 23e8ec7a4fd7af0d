"""Key/value pairs (`metadata_props`) to and from dictionaries."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import onnx

from qir.errors import ModelFileError


def text(value: str) -> str:
    """Return a text field of a message.

    Raises:
        ModelFileError: it is not UTF-8 (protobuf then hands out bytes).
    """
    if isinstance(value, str):
        return value
    raise ModelFileError(f"the name or text {value!r} in it is not UTF-8: the file is damaged")


def read_metadata(
    entries: Iterable[onnx.StringStringEntryProto],
) -> tuple[dict[str, str], list[onnx.StringStringEntryProto]]:
    """Return the pairs, and the entries whose key a later entry repeats (the last one counts)."""
    pairs: dict[str, str] = {}
    shadowed: list[onnx.StringStringEntryProto] = []
    for entry in entries:
        key = text(entry.key)
        if key in pairs:
            shadowed.append(onnx.StringStringEntryProto(key=key, value=pairs.pop(key)))
        pairs[key] = text(entry.value)
    return pairs, shadowed


def write_metadata(pairs: dict[str, str], entries: Any) -> None:
    """Append the pairs to a repeated `StringStringEntryProto` field."""
    for key, value in pairs.items():
        entries.add(key=key, value=value)
