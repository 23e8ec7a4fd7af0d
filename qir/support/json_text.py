"""JSON from files, within limits: numbers of thousands of digits and deep nesting are refused like damaged text."""

from __future__ import annotations

import json
from typing import Any

DEEPEST = 64
"""Lists and objects may nest this deep."""

LONGEST_INTEGER = 40
"""Digits that an integer may have."""


def parse_json(text: str) -> Any:
    """What a JSON text holds.

    Raises:
        ValueError: the text is not JSON, nests deeper than `DEEPEST`, or holds an integer of more than
            `LONGEST_INTEGER` digits.
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


def _inside(item: Any) -> list[Any]:
    if isinstance(item, dict):
        return list(item.values())
    return item if isinstance(item, list) else []


def _integer(digits: str) -> int:
    if len(digits) > LONGEST_INTEGER:
        raise ValueError(f"an integer has {len(digits)} digits; expected at most {LONGEST_INTEGER}")
    return int(digits)
