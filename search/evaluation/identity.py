"""Hashes of what a measured value depends on, for the store."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from qir.module import Module
    from qir.tensor import Array


def module_digest(module: Module) -> str:
    """SHA-256 of a network as it stands: structure, weights, quantizers and their ranges."""
    import qir

    return hashlib.sha256(qir.print_module(module, constants="hash").encode()).hexdigest()


def data_digest(*arrays: Array | None) -> str:
    """SHA-256 of arrays, their types and shapes; None stands for an array that is not given."""
    found = hashlib.sha256()
    for array in arrays:
        if array is None:
            found.update(b"none")
            continue
        found.update(f"{array.dtype} {array.shape}".encode())
        found.update(np.ascontiguousarray(array).tobytes())
    return found.hexdigest()
