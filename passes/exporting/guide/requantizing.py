"""The arithmetics from a step's integers to codes, as functions of all integers: float32, dyadic, and the guide's own.

`float32` and `dyadic` are the integer reference's, run on integers that are listed. What hardware and exported C do
with the guide's mantissas and shift is computed in the same steps of 64-bit integers, thresholds by counting.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from qir.backends.integer.requantization import Requantization, Term
from qir.backends.integer.values import Pending, accumulated, global_average
from qir.errors import QirError
from qir.passes.exporting.guide.differences import Arithmetic
from qir.passes.exporting.guide.traced import TracedOutput
from qir.tensor import Array

CODES = np.dtype(np.int32)
"""What requantized integers are saturated to before the clamp."""


def of_sums(output: TracedOutput, kind: Requantization) -> Arithmetic:
    """Return the arithmetic of a layer's sums; `output` waits for its grid."""
    data, weight = (np.asarray(scale, np.float32).reshape(-1) for scale in _term(output).scales)

    def codes(integers: Array, channels: Array) -> Array:
        scales = data, weight if weight.size == 1 else weight[channels][:, None]
        return codes_on(accumulated(integers, scales, output.tensor.name, wide=True), output, kind)

    return Arithmetic(codes, data * weight / output.tensor.scale, _zero(output))


def of_global_means(output: TracedOutput, kind: Requantization) -> Arithmetic:
    """Return the arithmetic of the sums of a mean over the whole image."""
    term = _term(output)
    scale, count = np.float32(np.asarray(term.scales[0]).reshape(-1)[0]), int(term.count.reshape(-1)[0])

    def codes(integers: Array, _: Array) -> Array:
        return codes_on(global_average(integers, scale, count), output, kind)

    return Arithmetic(codes, np.asarray([scale / (output.tensor.scale * np.float32(count))]), _zero(output))


def of_thresholds(rows: Array, low_code: int) -> Arithmetic:
    """Return the arithmetic of thresholds [channels or 1, codes - 1]: code = low code + how many are not above."""

    def codes(integers: Array, channels: Array) -> Array:
        values = rows if len(rows) == 1 else rows[channels]
        return np.asarray((integers[..., None] >= values[:, None]).sum(axis=-1) + low_code)

    return Arithmetic(codes, np.ones(1), 0)


def of_numbers(output: TracedOutput, mantissa: Array, shift: Array, count: int = 1) -> Arithmetic:
    """Return the arithmetic of mantissas and shifts [channels or 1] of one operand, see `quotient`."""

    def codes(integers: Array, channels: Array) -> Array:
        rows = [line if line.size == 1 else line[channels][:, None] for line in (mantissa, shift)]
        return quotient([integers], [rows[0]], rows[1], output, count)

    return Arithmetic(codes, np.ldexp(mantissa.astype(np.float64), -shift) / count, _zero(output))


def quotient(
    integers: Sequence[Array], mantissas: Sequence[Array], shift: Array, output: TracedOutput, count: int = 1
) -> Array:
    """Return codes: Σ integers · mantissa / (2^shift · count), half to even, in int64, plus zero point, clamped.

    Args:
        integers: of every operand.
        mantissas: of every operand, below 2^31.
        shift: 0 to 62.
        output: whose zero point and clamp it is.
        count: what a mean divides by.
    """
    total = sum(one.astype(np.int64) * line for one, line in zip(integers, mantissas, strict=True))
    unit = np.int64(count) << shift
    whole = total // unit if count > 1 else total >> shift
    rest = total - whole * unit
    up = (rest > unit - rest) | ((rest == unit - rest) & (whole & 1 == 1))
    return _clamped(np.asarray(whole + up + _zero(output)), output)


def codes_on(pending: Pending, output: TracedOutput, kind: Requantization) -> Array:
    """Return the codes of a result on the grid of a step's output, clamped: int64."""
    codes = pending.quantize(output.tensor.scale, _zero(output), CODES, kind, output.tensor.name)
    return _clamped(codes, output)


def _term(output: TracedOutput) -> Term:
    """Return the only summand of a result.

    Raises:
        QirError: it has several, or waits for no grid.
    """
    terms = () if output.pending is None else output.pending.terms()
    if len(terms) != 1:
        raise QirError(f"tensor {output.tensor.name!r}: {len(terms)} summands; expected one")
    return terms[0]


def _zero(output: TracedOutput) -> int:
    return 0 if output.tensor.grid is None else int(output.tensor.grid[1].reshape(-1)[0])


def _clamped(codes: Array, output: TracedOutput) -> Array:
    low, high = output.clamp or output.tensor.limits
    return np.clip(codes.astype(np.int64), low, high)
