"""Tables of levels that are whole multiples of a step: integers in disguise."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from qir.errors import QirError
from qir.quantizers.parameters import Float, Int, QuantParameters

LARGEST_MULTIPLE = 2**15
"""Levels are searched among the multiples of a step up to this one."""


def integer_levels(grid: QuantParameters) -> tuple[Int, QuantParameters] | None:
    """Return integers k and scales s with level = k * s exactly in float32, the same k in every channel; else None.

    Returns:
        k int32 [codes], and the grid without levels whose scale is s.
    """
    if grid.levels is None:
        raise QirError(f"a grid of {grid.codes} integer codes is not a table of levels: its codes are the multiples")
    sizes = np.abs(grid.levels.astype(np.float64))
    step = np.where(sizes > 0, sizes, np.inf).min(axis=1)
    if not np.isfinite(step).all():
        return None
    table = np.rint(grid.levels / step[:, None])
    scale = step.astype(np.float32)
    exact = (table.astype(np.float32) * scale[:, None] == grid.levels).all()
    if not exact or (table != table[:1]).any() or np.abs(table).max() > LARGEST_MULTIPLE:
        return None
    codes = table[0].astype(np.int32)
    zero = np.zeros(len(scale), np.int32)
    plain = replace(
        grid, scale=scale, zero_point=zero, low_code=int(codes.min()), high_code=int(codes.max()), levels=None,
        boundaries=None,
    )  # fmt: skip
    return codes, plain


def integer_step(grid: QuantParameters) -> Float | None:
    """Return the scale s of a grid whose every value is an integer times s, float32 [channels or 1].

    None where there is none.

    The int32 sums of a layer count in the product of the steps of its operands, and so does its bias.
    """
    if grid.levels is None:
        return grid.scale
    multiples = integer_levels(grid)
    return None if multiples is None else multiples[1].scale
