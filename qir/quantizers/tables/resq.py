"""Residual binaries (AutoQNN section 3.1.1, ResQ)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from qir.errors import QirError
from qir.quantizers.parameters import Float, QuantParameters, Storage
from qir.quantizers.tables.codebook import StoredLevels, codebook

Double = NDArray[np.float64]


@dataclass(frozen=True)
class ResQ(StoredLevels):
    """A sum of b scaled signs: `x ~ sum a_i sign(v_i)`, v_1 = x, v_(i+1) = v_i - a_i sign(v_i), a_i = mean|v_i|.

    A code's bits, highest first, are the signs (1 is +), so levels are listed in the order of codes and need not
    ascend: where a scale is smaller than the sum of the later ones, sums overlap. The recursion's choice is kept, not
    the nearest sum. Unsigned data: the first sign would always be +, so its term becomes a constant and b signs follow.
    """

    name: ClassVar[str] = "resq"
    widths: ClassVar[tuple[int, ...]] = tuple(range(1, 9))
    storage: ClassVar[Storage] = Storage.BINARY_SUM

    def _fit_grid(self, rows: Float, bits: int, signed: bool) -> QuantParameters:
        return binary_sum(*residual_scales(rows, bits, signed), signed)

    def parameters_from_levels(self, levels: NDArray[np.generic], bits: int, signed: bool) -> QuantParameters:
        """Rebuild a grid from levels [channels or 1, 2**bits] in the order of codes.

        Raises:
            QirError: the levels are not finite or not 2**bits per channel.
        """
        self.check(bits, signed)
        table = np.asarray(levels, dtype=np.float64)
        if table.ndim != 2 or table.shape[1] != 1 << bits or not np.isfinite(table).all():
            raise QirError(f"scheme 'resq': levels of shape {table.shape}; expected finite [channels, {1 << bits}]")
        halves = [(table[:, 1 << (bits - 1 - index)] - table[:, 0]) / 2 for index in range(bits)]
        offset = (table[:, :1] + table[:, -1:]) / 2
        return binary_sum(np.stack(halves, axis=1), offset, signed)

    def _fit_levels(self, rows: Float, bits: int, signed: bool) -> Double:
        scales, offset = residual_scales(rows, bits, signed)
        reach = scales.sum(axis=1, keepdims=True)
        return np.concatenate([offset - reach, offset + reach], axis=1)


def residual_scales(rows: Float, bits: int, signed: bool) -> tuple[Double, Double]:
    """Return scales of the residual binaries, for targets that compute with sums of binaries.

    Args:
        rows: data [channels, elements].
        bits: number of binaries.
        signed: False puts a constant term (the mean) in front.

    Returns:
        Scales [channels, bits] and constant term [channels, 1] (zero where signed).
    """
    residual = rows.astype(np.float64)
    offset = np.zeros((len(rows), 1)) if signed else residual.mean(axis=1, keepdims=True)
    residual = residual - offset
    scales = np.empty((len(rows), bits))
    for index in range(bits):
        scales[:, index] = np.abs(residual).mean(axis=1)
        residual -= np.where(residual < 0, -1.0, 1.0) * scales[:, index : index + 1]
    return scales, offset


def binary_sum(scales: Double, offset: Double, signed: bool) -> QuantParameters:
    """Return the grid of all sums `offset +- a_1 +- a_2 ...`, with the decision tree of the recursion as boundaries.

    A sign is that of the value minus the partial sum, so a partial sum is a threshold; it is limited to the interval
    that the earlier signs leave.

    Args:
        scales: [channels, bits], not negative.
        offset: constant term [channels, 1].
        signed: whether negative values are represented.
    """
    channels, bits = scales.shape
    boundaries = np.empty((channels, (1 << bits) - 1))
    partial, low, high = offset, np.full((channels, 1), -np.inf), np.full((channels, 1), np.inf)
    for index in range(bits):
        cut = np.clip(partial, low, high)
        spacing = 1 << (bits - index)
        boundaries[:, spacing // 2 - 1 :: spacing] = cut
        scale = scales[:, index : index + 1]
        low, high = _interleave(low, cut), _interleave(cut, high)
        partial = _interleave(partial - scale, partial + scale)
    return codebook(partial, bits, signed, boundaries)


def _interleave(left: Double, right: Double) -> Double:
    return np.stack([left, right], axis=2).reshape(len(left), -1)
