"""Which ops leave a tensor on its grid: every element of the result equals one of the operand's levels."""

from __future__ import annotations

from functools import lru_cache

import numpy as np

from qir.graph import Node
from qir.ops.definition import OpDef
from qir.tensor import Array
from qir.types import QuantType, TensorType

Types = tuple[TensorType | None, ...]
_LARGEST = 16


@lru_cache(maxsize=1024)
def levels_of(grid: QuantType) -> Array | None:
    """Return every level of a grid: float32 [channels or 1, codes].

    None before calibration and for per-channel widths.
    """
    if grid.levels is not None:
        return np.asarray(grid.levels, np.float32)
    if not isinstance(grid.bits, int) or grid.bits > _LARGEST or grid.low is None or grid.high is None:
        return None
    from qir.quantizers import get_scheme

    scheme = get_scheme(grid.scheme)
    if scheme.stores_levels:
        return None
    ranges = np.stack([np.asarray(grid.low, np.float32), np.asarray(grid.high, np.float32)], axis=1)
    return scheme.grid(scheme.parameters(ranges, grid.bits, grid.signed, grid.narrow))


def holds(grid: QuantType, number: float) -> bool:
    """Return whether a number is a level of every channel of a grid; a uniform grid that is only planned holds zero."""
    levels = levels_of(grid)
    if levels is None:
        return number == 0 and grid.scheme == "uniform" and not (grid.signed and grid.bits == 1)
    return bool((levels == np.float32(number)).any(axis=1).all())


def grid_of(type: TensorType | None) -> QuantType | None:  # noqa: A002
    """Return the grid of a tensor type, or None."""
    return None if type is None else type.quant


def kept(entry: OpDef, node: Node, types: Types, inferred: TensorType) -> QuantType | None:
    """Return the grid of result 0: by the entry's own rule, else the kept operand's when its axis survives."""
    if entry.flow is not None:
        return entry.flow(node, types, inferred)
    index = entry.grid_operand(node)
    source = types[index] if index is not None and index < len(types) else None
    return same_axis(source, inferred)


def same_axis(source: TensorType | None, inferred: TensorType) -> QuantType | None:
    """Return the operand's grid when it has no axis, or when the axis has the same known length in the result."""
    grid = grid_of(source)
    if grid is None or source is None or grid.axis is None:
        return grid
    if source.rank != inferred.rank or source.shape is None or inferred.shape is None:
        return None
    length = source.shape[grid.axis]
    return grid if isinstance(length, int) and inferred.shape[grid.axis] == length else None


def transposed(node: Node, types: Types, inferred: TensorType) -> QuantType | None:
    """Transpose: a per-channel grid moves with its axis."""
    grid = grid_of(types[0])
    if grid is None or grid.axis is None or inferred.rank is None:
        return grid
    order = node.attribute("perm") or tuple(reversed(range(inferred.rank)))
    from dataclasses import replace

    return replace(grid, axis=order.index(grid.axis))


def positive_part(node: Node, types: Types, inferred: TensorType) -> QuantType | None:  # noqa: ARG001
    """Relu: when zero is a level."""
    grid = grid_of(types[0])
    return grid if grid is not None and holds(grid, 0.0) else None


def clipped(node: Node, types: Types, inferred: TensorType) -> QuantType | None:  # noqa: ARG001
    """Clip: when each bound is a level, or lies beyond the outermost one."""
    grid = grid_of(types[0])
    if grid is None:
        return None
    for index, name in ((1, "min"), (2, "max")):
        value = node.input(index)
        bound = node.attribute(name) if value is None else _number(node, index)
        if bound is None and value is None:
            continue
        if bound is None or not (holds(grid, bound) or _beyond(grid, bound, upper=index == 2)):
            return None
    return grid


def padded(node: Node, types: Types, inferred: TensorType) -> QuantType | None:
    """Pad: when the padded value is a level; reflected and repeated edges always are."""
    if node.attribute("mode", "constant") == "constant":
        grid = grid_of(types[0])
        value = node.attribute("value", 0.0) if node.input(2) is None else _number(node, 2)
        if grid is None or value is None or not holds(grid, value):
            return None
    return same_axis(types[0], inferred)


def concatenated(node: Node, types: Types, inferred: TensorType) -> QuantType | None:  # noqa: ARG001
    """Concat: when all operands lie on one per-tensor grid."""
    grids = {grid_of(t) for t in types}
    grid = grids.pop() if len(grids) == 1 else None
    return grid if grid is not None and grid.axis is None else None


def _number(node: Node, index: int) -> float | None:
    value = node.input(index)
    if value is None or value.constant is None or not value.is_constant or value.constant.size != 1:
        return None
    return float(value.constant.numpy().reshape(-1)[0])


def _beyond(grid: QuantType, bound: float, *, upper: bool) -> bool:
    levels = levels_of(grid)
    if levels is None:
        return False
    return bool((levels <= bound).all()) if upper else bool((levels >= bound).all())
