"""What the file itself holds."""

from __future__ import annotations

from qir.constants import is_standard
from qir.graph import Value


def is_held(value: Value) -> bool:
    """Whether the file holds a value: a constant, or the result of a `Constant` node."""
    return value.is_constant or (value.producer is not None and is_standard(value.producer, "Constant"))
