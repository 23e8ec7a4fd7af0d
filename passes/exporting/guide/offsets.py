"""Where the elements of a moved tensor come from, as one list of offsets an axis."""

from __future__ import annotations

import numpy as np

from qir.backends.integer.reference import State
from qir.backends.integer.values import Grid
from qir.errors import QirError
from qir.graph import Node
from qir.tensor import Array

_OUTSIDE = -(2**31)
"""Offset of what lies outside of a tensor: with any other offsets below 0."""


def offsets_of(state: State, node: Node, result: Grid) -> tuple[list[Array], int | None]:
    """Find where every element of a node that moves codes comes from.

    The node is run on the places of its input, twice to tell what it fills.

    Args:
        state: the batch, after the node.
        node: the node.
        result: its result.

    Returns:
        One list of offsets an axis, whose sums are places in the input (below 0 = outside), and the code that fills
        what lies outside, None where nothing does.

    Raises:
        QirError: it fills everything, or moves elements in a way that no axis tells alone.
    """
    source = state.values[node.operands[0]]
    assert isinstance(source, Grid)  # noqa: S101 - only grids are moved
    size = source.codes.size
    places = np.arange(size, dtype=np.int32).reshape(source.codes.shape)
    found = [_moved(state, node, Grid(places + shift, source.scale, source.zero_point)) for shift in (0, size)]
    outside = found[0] == found[1]
    if outside.all() and outside.size:
        raise QirError(f"node {node.name!r} fills its whole result")
    fill = int(result.codes[outside][0]) if outside.any() else None
    inside = np.where(outside, -1, found[0]).astype(np.int64)
    offsets = _separated(inside)
    if offsets is None:
        raise QirError(f"node {node.name!r}: {node.op} moves elements in a way that no axis tells alone")
    return offsets, fill


def _moved(state: State, node: Node, grid: Grid) -> Array:
    values, codes = dict(state.values), dict(state.codes)
    state.values[node.operands[0]] = grid
    state.step(node)
    moved = state.values[node.result]
    state.values, state.codes = values, codes
    assert isinstance(moved, Grid)  # noqa: S101 - as before
    return moved.codes


def _separated(places: Array) -> list[Array] | None:
    """Return one list of offsets an axis whose sums are the places (-1 = outside); None where there is none."""
    if not places.size:
        return None
    inside = places >= 0
    axes = range(places.ndim)
    kept = [inside.any(axis=tuple(a for a in axes if a != axis)) for axis in axes]
    origin = tuple(int(np.argmax(line)) for line in kept)
    if not inside[origin]:
        return None
    offsets, start = [], int(places[origin])
    for axis in axes:
        line = places[tuple(slice(None) if a == axis else origin[a] for a in axes)] - places[origin]
        lowest = int(line[kept[axis]].min())
        start += lowest
        offsets.append(np.where(kept[axis], line - lowest, _OUTSIDE))
    if offsets:
        offsets[0] = np.where(kept[0], offsets[0] + start, _OUTSIDE)
    return offsets if np.array_equal(np.maximum(_total(offsets), -1), places) else None


def _total(offsets: list[Array]) -> Array:
    """Return the sum of offsets at every place."""
    found = np.zeros((), np.int64)
    for axis, line in enumerate(offsets):
        found = found + line.reshape(-1, *(1,) * (len(offsets) - 1 - axis))
    return np.asarray(found)


def in_order(offsets: list[Array], shape: tuple[int, ...]) -> bool:
    """Return whether every element stays where it is."""
    return np.array_equal(_total(offsets).reshape(-1), np.arange(int(np.prod(shape))))
