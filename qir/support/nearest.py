"""Did you mean: a hint at the valid name that is most like a wrong one."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches


def nearest(name: str, valid: Iterable[str]) -> str:
    """Return a hint at the valid name most like `name`, or the list of all of them."""
    names = {known.lower(): known for known in sorted(valid)}
    matches = get_close_matches(name.lower(), names, n=1)
    expected = ", ".join(names.values()) or "none"
    return f"did you mean {names[matches[0]]!r}?" if matches else f"expected one of {expected}"
