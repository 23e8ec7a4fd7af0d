"""JSON from files, within limits: numbers of thousands of digits and deep nesting are refused like damaged text.

What a file holds has the types that its reader expects before anything is computed from it.
"""

from __future__ import annotations

import json
from typing import Any

DEEPEST = 64
"""Lists and objects may nest this deep."""

LONGEST_INTEGER = 40
"""Digits that an integer may have."""


def parse_json(text: str) -> Any:
    """Return what a JSON text holds.

    Raises:
        ValueError: the text is not JSON, nests deeper than `DEEPEST`, or holds an integer of more than
            `LONGEST_INTEGER` digits or half of a surrogate pair, which no file can be written with.
    """
    try:
        found = json.loads(text, parse_int=_integer)
    except RecursionError:
        raise ValueError(f"it nests deeper than {DEEPEST}") from None
    level, depth = [found], 0
    while level := [inner for item in level for inner in _inside(item)]:
        depth += 1
        if depth > DEEPEST:
            raise ValueError(f"it nests deeper than {DEEPEST}")
    return found


def typed(kind: Any, found: Any) -> Any:
    """Return what a JSON text held, as a value of a type.

    Args:
        kind: a type as pydantic reads it; a whole number is taken for a float.
        found: plain lists, maps, texts and numbers.

    Raises:
        ValueError: an entry is missing or of another type; names the first one.
    """
    from pydantic import TypeAdapter, ValidationError

    try:
        return TypeAdapter(kind).validate_python(found)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        place = ".".join(map(str, first["loc"])) or "the whole"
        raise ValueError(f"entry {place!r}: {first['msg'].removeprefix('Value error, ')}") from error


def _inside(item: Any) -> list[Any]:
    if isinstance(item, dict):
        return [*item, *item.values()]
    if isinstance(item, str):
        item.encode()
    return item if isinstance(item, list) else []


def _integer(digits: str) -> int:
    if len(digits) > LONGEST_INTEGER:
        raise ValueError(f"an integer has {len(digits)} digits; expected at most {LONGEST_INTEGER}")
    return int(digits)
