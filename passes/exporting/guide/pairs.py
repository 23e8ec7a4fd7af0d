"""Where requantization of elements differs: sums and products of two operands, new grids, means of windows.

The integers are few: 256 codes, or 65,536 pairs of them. The integer reference itself computes all of them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np

from qir.backends.integer.values import Grid, Pending, added, multiplied, rescaled
from qir.errors import QirError
from qir.graph import Value
from qir.passes.exporting.guide.differences import Differences
from qir.passes.exporting.guide.reach import codes_of
from qir.passes.exporting.guide.requantizing import codes_on
from qir.passes.exporting.guide.traced import Trace, TracedOutput, TracedTensor
from qir.tensor import Array

Numbers = Callable[[Sequence[Array]], Array]
"""From the integers of the operands to codes, by a guide's mantissas and shift."""


def operand_codes(trace: Trace, operand: TracedTensor | Value | None) -> Grid:
    """Return every code that an operand can hold, on its grid: [codes].

    Raises:
        QirError: the operand is a constant with a scale a channel, or has no codes.
    """
    if isinstance(operand, TracedTensor):
        return codes_of(operand)
    found = None if operand is None else trace.constants.get(operand)
    if found is None or found.per_tensor() is None:
        raise QirError("an operand has a scale a channel, or none: only operands on one grid are decided")
    return replace(found, codes=np.unique(found.codes))


def pair_differences(
    op: str, operands: Sequence[Grid], output: TracedOutput, guide: Numbers | None = None
) -> tuple[dict[str, Differences], int]:
    """Return where codes of a sum or a product differ from those of float32, and how many pairs there are.

    Args:
        op: `Add` or `Mul`.
        operands: every code of each.
        output: the result.
        guide: the arithmetic of a guide.
    """
    first = replace(operands[0], codes=operands[0].codes[:, None])
    second = replace(operands[1], codes=operands[1].codes[None])
    pending = (added if op == "Add" else multiplied)(first, second)
    if pending is None:
        raise QirError("an operand has a scale a channel: only operands on one grid are decided")
    integers = np.broadcast_arrays(first.centred().astype(np.int64), second.centred().astype(np.int64))
    terms = list(integers) if op == "Add" else [integers[0] * integers[1]]
    return _compared(pending, output, terms, guide), integers[0].size


def rescaling_differences(
    tensors: Sequence[TracedTensor], output: TracedOutput, guides: Sequence[Numbers] = ()
) -> tuple[dict[str, Differences], int]:
    """Return where codes on another grid differ from those of float32, and how many codes there are.

    Args:
        tensors: operands: one, or those of a Concat.
        output: the result.
        guides: arithmetics of a guide, one an operand, or one for all.
    """
    found, count = dict[str, Differences](), 0
    for index, tensor in enumerate(tensors):
        grid = codes_of(tensor)
        guide = guides[min(index, len(guides) - 1)] if guides else None
        one = _compared(rescaled(grid), output, [grid.centred().astype(np.int64)], guide)
        found = {name: found.get(name, Differences()).joined(other) for name, other in one.items()}
        count += grid.codes.size
    return found, count


def uncertain_means(tensor: TracedTensor, output: TracedOutput) -> tuple[int, int]:
    """Return how many sums a window can have, and how many lie within float32's error of a rounding tie.

    float32 adds the values of a window one after another, so that their sum does not decide its result; what it can
    be off by is bounded: every addition, the division and the new grid round once.
    """
    (term,) = () if output.pending is None else output.pending.terms()
    low, high = (int(end) for end in codes_of(tensor).centred()[[0, -1]])
    zero = 0 if output.tensor.grid is None else int(output.tensor.grid[1].reshape(-1)[0])
    scale, step = float(term.scales[0]), float(output.tensor.scale)
    total = close = 0
    for count in np.unique(term.count).tolist():
        sums = np.arange(low * count, high * count + 1)
        codes = sums * scale / (count * step)
        size = max(-low, high) * scale / step
        error = 2.0**-24 * ((count + 4) * size + abs(zero) + size)
        nearest = np.abs(codes - np.floor(codes) - 0.5)
        exact = np.frexp(scale)[0] == 0.5 and np.frexp(step)[0] == 0.5 and count & (count - 1) == 0
        total, close = total + sums.size, close + (0 if exact else int((nearest <= error).sum()))
    return total, close


def _compared(
    pending: Pending, output: TracedOutput, integers: Sequence[Array], guide: Numbers | None
) -> dict[str, Differences]:
    reference = codes_on(pending, output, "float32")
    others = {"dyadic": codes_on(pending, output, "dyadic")}
    if guide is not None:
        others["guide"] = guide(integers)
    found = {}
    for name, codes in others.items():
        off = np.argwhere(codes != reference)
        first = None
        if len(off):
            place = tuple(off[0])
            first = (0, int(integers[0][place]), int(reference[place]), int(codes[place]))
        found[name] = Differences(len(off), int(np.abs(codes - reference).max(initial=0)), first)
    return found
