"""Grids for blocks along an axis, as ONNX's `block_size`: a tensor as rows, one a block, and back.

With blocks of B elements along an axis of length D, ceil(D / B) blocks share each place of the other axes. A row is one
block; rows stand in C order of the tensor of blocks, and a last block that is short is filled by repeating its last
element, which moves neither its smallest nor its largest value.
"""

from __future__ import annotations

from math import prod
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from qir.errors import QirError

Number = TypeVar("Number", bound=np.generic)


def blocks_shape(shape: tuple[int, ...], axis: int, block: int) -> tuple[int, ...]:
    """Return the shape of the tensor of blocks: that of its scales in ONNX's DequantizeLinear.

    Raises:
        QirError: there is no such axis, or a block has no element.
    """
    if not 0 <= axis < len(shape) or block < 1:
        raise QirError(f"blocks of {block} along axis {axis} of shape {shape}: expected an axis it has and 1 or more")
    return (*shape[:axis], -(-shape[axis] // block), *shape[axis + 1 :])


def to_rows(x: NDArray[Number], axis: int, block: int) -> NDArray[Number]:
    """Return a tensor as [blocks, block].

    Raises:
        QirError: as `blocks_shape`.
    """
    values = np.asarray(x)
    counts = blocks_shape(values.shape, axis, block)
    missing = counts[axis] * block - values.shape[axis]
    if missing:
        widths = [(0, missing if index == axis else 0) for index in range(values.ndim)]
        values = np.pad(values, widths, mode="edge")
    parted = values.reshape(*counts[: axis + 1], block, *counts[axis + 1 :])
    return np.ascontiguousarray(np.moveaxis(parted, axis + 1, -1).reshape(prod(counts), block))


def from_rows(rows: NDArray[Number], shape: tuple[int, ...], axis: int, block: int) -> NDArray[Number]:
    """Return the tensor of a shape whose rows these are: the inverse of `to_rows`.

    Raises:
        QirError: as `blocks_shape`.
    """
    counts = blocks_shape(shape, axis, block)
    parted = np.moveaxis(rows.reshape(*counts, block), -1, axis + 1)
    whole = parted.reshape(*counts[:axis], counts[axis] * block, *counts[axis + 1 :])
    return np.ascontiguousarray(np.take(whole, np.arange(shape[axis]), axis))
