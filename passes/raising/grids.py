"""Grids of quantized files, and the fake-quant ranges that give exactly their scales and zero points back."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from qir.passes.analysis.affine import Reject
from qir.quantizers import QuantParameters, get_scheme, kernels
from qir.tensor import Array

_ULPS = 6

MIDDLE = 128
"""Zero point of signed codes that are stored as uint8."""


@dataclass(frozen=True, eq=False)
class CodeGrid:
    """Codes low_code … high_code that stand for (code - zero_point) * scale.

    Attributes:
        scale: float32 [channels or 1].
        zero_point: int64 [channels or 1].
        axis: channel axis, None for one scale.
        low_code: smallest code.
        high_code: largest code.
    """

    scale: npt.NDArray[np.float32]
    zero_point: npt.NDArray[np.int64]
    axis: int | None
    low_code: int
    high_code: int

    def moved(self, offset: int) -> CodeGrid:
        """Return the same values with codes and zero points larger by an offset."""
        low, high = self.low_code + offset, self.high_code + offset
        return replace(self, zero_point=self.zero_point + offset, low_code=low, high_code=high)

    def same_scale(self, other: CodeGrid) -> bool:
        """Return whether both map codes to values alike, whatever codes they use."""
        return (
            self.scale.shape == other.scale.shape
            and bool((self.scale == other.scale).all() and (self.zero_point == other.zero_point).all())
            and (self.axis == other.axis or self.scale.size == 1)
        )

    def values(self, codes: Array) -> npt.NDArray[np.float32]:
        """Return what codes stand for: float32, as DequantizeLinear computes it."""
        scale, zero = self.scale, self.zero_point
        if self.axis is not None:
            shape = [1] * codes.ndim
            shape[self.axis] = -1
            scale, zero = scale.reshape(shape), zero.reshape(shape)
        found: npt.NDArray[np.float32] = (codes.astype(np.int64) - zero).astype(np.float32) * scale
        return found

    def holds(self, other: QuantParameters) -> bool:
        """Return whether every level of another grid is a value of this one, which has one scale."""
        levels = kernels.grid(other)
        codes = np.clip(np.rint(levels / self.scale) + self.zero_point, self.low_code, self.high_code)
        return bool((self.values(codes) == levels).all())

    def width(self) -> tuple[int, bool, bool] | Reject:
        """Return bits, signed, and narrow (without the lowest code) of the codes."""
        low, high = self.low_code, self.high_code
        bits = (high + 1).bit_length() - 1 + (low < 0)
        top = (1 << (bits - (low < 0))) - 1
        if high == top and bits >= 1 and low in {0, -top, -top - 1}:
            return bits, low < 0, low == -top and low < 0
        return Reject(f"codes {low} to {high} are not a grid of a whole number of bits")


@dataclass(frozen=True, eq=False)
class QuantizerSpec:
    """Attributes of the fake-quant node for a grid.

    Attributes:
        scheme: `uniform` or `uniform-asymmetric` where a range gives exactly the grid's scales and zero points back,
            else `uniform-step`, which holds any scale.
        ranges: float32 [channels or 1, 2], as the scheme reads them.
        edges: float32 [channels or 1, 2], the smallest and largest value.
    """

    bits: int
    signed: bool
    narrow: bool
    scheme: str
    axis: int | None
    ranges: npt.NDArray[np.float32]
    edges: npt.NDArray[np.float32]

    def parameters(self) -> QuantParameters:
        """Return the grid itself."""
        return get_scheme(self.scheme).parameters(self.ranges, self.bits, self.signed, self.narrow)


def spec_of(grid: CodeGrid) -> QuantizerSpec | Reject:
    """Return the fake-quant attributes for a grid; a reason when no uniform scheme has it."""
    width = grid.width()
    if isinstance(width, Reject) and (grid.zero_point == MIDDLE).all():
        grid = grid.moved(-MIDDLE)
        width = grid.width()
    if isinstance(width, Reject):
        return width
    bits, signed, narrow = width
    scheme = "uniform-asymmetric" if signed and grid.zero_point.any() else "uniform"
    if narrow and scheme == "uniform-asymmetric":
        return Reject("it leaves the lowest code out and has a zero point other than 0")
    if not 2 <= bits <= 16 and (signed or bits != 1):
        return Reject(f"it has {bits} bits; uniform grids have 1 to 16, signed ones 2 to 16")
    if not (np.isfinite(grid.scale).all() and (grid.scale >= 2.0**-60).all()):
        return Reject("a scale is not finite, not positive, or below 2^-60")
    if ((grid.zero_point < grid.low_code) | (grid.zero_point > grid.high_code)).any():
        return Reject("a zero point lies outside the codes")
    edges = np.stack(_real_range(grid, scheme, signed), axis=1)
    ranges = _invert(grid, edges, scheme, bits, signed, narrow)
    if ranges is None:
        scheme = "uniform-step"
        ranges = np.stack([(grid.low_code - grid.zero_point).astype(np.float32), grid.scale], axis=1)
    return QuantizerSpec(bits, signed, narrow, scheme, grid.axis, ranges, edges)


def bipolar_spec(scale: Array, axis: int | None) -> QuantizerSpec:
    """Return the fake-quant attributes for codes -1 and +1 with these scales."""
    magnitude = np.asarray(scale, np.float32).reshape(-1)
    edges = np.stack([-magnitude, magnitude], axis=1)
    return QuantizerSpec(1, True, False, "uniform", axis, edges, edges)


def _invert(
    grid: CodeGrid, edges: npt.NDArray[np.float32], scheme: str, bits: int, signed: bool, narrow: bool
) -> npt.NDArray[np.float32] | None:
    """Return ranges from which the scheme computes the grid's scales and zero points, found by trying near ones."""
    found, missing = edges.copy(), np.ones(len(edges), bool)
    moves_low = scheme == "uniform-asymmetric" or not signed
    steps = sorted(range(-_ULPS, _ULPS + 1), key=abs)
    for down in steps if moves_low else (0,):
        for up in steps:
            trial = np.stack([_shift(edges[:, 0], down), _shift(edges[:, 1], up)], axis=1)
            if not moves_low:
                trial[:, 0] = -trial[:, 1]
            fits = missing & _gives(trial, grid, scheme, bits, signed, narrow)
            found[fits] = trial[fits]
            missing &= ~fits
            if not missing.any():
                return found
    return None


def _real_range(grid: CodeGrid, scheme: str, signed: bool) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
    scale = grid.scale.astype(np.float64)
    high = ((grid.high_code - grid.zero_point) * scale).astype(np.float32)
    if signed and scheme == "uniform":
        return -high, high
    return ((grid.low_code - grid.zero_point) * scale).astype(np.float32), high


def _shift(values: npt.NDArray[np.float32], ulps: int) -> npt.NDArray[np.float32]:
    """Return values moved by units in the last place; zeros stay, because zero must stay on the grid's edge."""
    moved = values
    for _ in range(abs(ulps)):
        moved = np.nextafter(moved, np.float32(np.inf if ulps > 0 else -np.inf))
    return np.where(values == 0, values, moved)


def _gives(
    ranges: npt.NDArray[np.float32], grid: CodeGrid, scheme: str, bits: int, signed: bool, narrow: bool
) -> npt.NDArray[np.bool_]:
    ordered = ranges[:, 0] <= ranges[:, 1]
    safe = np.where(ordered[:, None], ranges, 0)
    parameters = get_scheme(scheme).parameters(safe, bits, signed, narrow)
    same: npt.NDArray[np.bool_] = (parameters.scale == grid.scale) & (parameters.zero_point == grid.zero_point)
    return same & ordered
