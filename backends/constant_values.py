"""Constants as backends read them: constant values, and the results of `Constant` nodes."""

from __future__ import annotations

import numpy as np

from qir.graph import Value
from qir.tensor import Array, Tensor


def constant_of(value: Value | None) -> Array | None:
    """The elements of a value that the file fixes, None for every other value and for one that is left out."""
    if value is None or value.is_input:
        return None
    node = value.producer
    found = value.constant if node is None or node.operands else node.attribute("value")
    return np.asarray(found.numpy()) if isinstance(found, Tensor) else None
