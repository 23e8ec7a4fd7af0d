"""Exact sums of products of integers, by the float kernels of BLAS where a bound proves that they round nothing.

Every partial sum of a·w, in any order and with fused multiply-adds, is an integer of magnitude at most max|a| · Σ|w|.
Where that is below 2^24, float32 holds all of them; else float64 does, below 2^53. Columns of a convolution are made
for some samples at a time, so that memory does not grow with the batch.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from qir.backends.integer.windows import Window
from qir.tensor import Array

SINGLE = 2**24
"""float32 holds every integer up to this magnitude."""

COLUMNS = 8 << 20
"""Bytes of columns that are made at a time."""


def holding(largest: int, weights: Array) -> np.dtype[Any]:
    """Return the float type that holds every partial sum: float32 or float64.

    Args:
        largest: largest magnitude of what is multiplied.
        weights: integers [..., channels, inputs] that it is multiplied by.
    """
    reach = int(np.abs(weights.astype(np.int64)).sum(axis=-1).max(initial=0))
    return np.dtype(np.float32 if largest * reach < SINGLE else np.float64)


def magnitude(codes: Array) -> int:
    """Return the largest magnitude of integers."""
    return max(int(codes.max(initial=0)), -int(codes.min(initial=0)))


def product(left: Array, right: Array) -> Array:
    """Return the matrix product of integers [..., M, K] and [..., K, N], exact: float32 or float64."""
    kind = holding(magnitude(left), np.swapaxes(right, -1, -2) if right.ndim > 1 else right)
    return np.asarray(left.astype(kind) @ right.astype(kind))


def convolution(codes: Array, kernel: Array, window: Window, groups: int) -> Array:
    """Return what a convolution sums, exact: float32 or float64 [N, channels, spatial...].

    Args:
        codes: integers [N, inputs, spatial...], zero points taken off.
        kernel: integers [channels, inputs / groups, kernel...], likewise.
        window: its geometry at this size.
        groups: of channels.
    """
    rows = kernel.reshape(groups, kernel.shape[0] // groups, -1)
    kind = holding(magnitude(codes), rows)
    rows = rows.astype(kind)
    if not window.moves and len(codes):
        flat = codes.reshape(len(codes), groups, rows.shape[2], -1)
        made = [rows @ flat[index : index + 1].astype(kind) for index in range(len(codes))]
        return np.concatenate(made).reshape(len(codes), len(kernel), *codes.shape[2:])
    if kernel.shape[1] == 1:
        return _by_tap(codes, rows, window, groups)
    taps, found = int(np.prod(kernel.shape[2:])), []
    each = codes[:1].size * taps * kind.itemsize
    some = max(COLUMNS // max(each, 1), 1)
    for start in range(0, max(len(codes), 1), some):
        part = codes[start : start + some].astype(kind)
        columns = window.elements(window.padded(part, 0))
        spatial = columns[0].shape[2:]
        stacked = np.stack(columns, axis=2).reshape(len(part), groups, rows.shape[2], int(np.prod(spatial)))
        found.append((rows @ stacked).reshape(len(part), len(kernel), *spatial))
    return np.concatenate(found) if len(found) > 1 else found[0]


def _by_tap(codes: Array, rows: Array, window: Window, groups: int) -> Array:
    """Return the sums of a convolution whose groups have one input each, tap by tap."""
    views = window.elements(window.padded(codes.astype(rows.dtype), 0))
    rank = codes.ndim - 2
    total = np.zeros((len(codes), groups, rows.shape[1], *views[0].shape[2:]), rows.dtype)
    for tap, view in enumerate(views):
        total += rows[None, :, :, tap].reshape(1, groups, -1, *(1,) * rank) * view[:, :, None]
    return total.reshape(len(codes), groups * rows.shape[1], *views[0].shape[2:])
