"""Key/value pairs (`metadata_props`) to and from dictionaries."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import onnx


def read_metadata(
    entries: Iterable[onnx.StringStringEntryProto],
) -> tuple[dict[str, str], list[onnx.StringStringEntryProto]]:
    """The pairs, and the entries whose key a later entry repeats (the last one counts)."""
    pairs: dict[str, str] = {}
    shadowed: list[onnx.StringStringEntryProto] = []
    for entry in entries:
        if entry.key in pairs:
            shadowed.append(onnx.StringStringEntryProto(key=entry.key, value=pairs.pop(entry.key)))
        pairs[entry.key] = entry.value
    return pairs, shadowed


def write_metadata(pairs: dict[str, str], entries: Any) -> None:
    """Append the pairs to a repeated `StringStringEntryProto` field."""
    for key, value in pairs.items():
        entries.add(key=key, value=value)
