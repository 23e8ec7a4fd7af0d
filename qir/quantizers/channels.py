"""Many widths at once: one grid per candidate width, or another width per channel."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from qir.errors import QirError
from qir.quantizers import kernels
from qir.quantizers.parameters import Float, Int, QuantParameters
from qir.quantizers.registry import get_scheme
from qir.quantizers.scheme import Scheme


def scheme_for(spec: str | Mapping[int, str], bits: int) -> Scheme:
    """Scheme of a quantizer at a width.

    Args:
        spec: a name, or a map from width to name.
        bits: the width.

    Raises:
        QirError: the map lacks the width, or no scheme has the name.
    """
    if isinstance(spec, str):
        return get_scheme(spec)
    if bits not in spec:
        raise QirError(f"scheme map {dict(spec)}: no entry for {bits} bits; add one")
    return get_scheme(spec[bits])


def parameters_by_width(
    spec: str | Mapping[int, str],
    ranges: NDArray[np.generic],
    widths: Sequence[int],
    signed: bool,
    narrow: bool = False,
) -> tuple[QuantParameters, ...]:
    """Return grids of every candidate width of a quantizer.

    Args:
        spec: a scheme's name, or a map from width to name.
        ranges: [widths, channels or 1, 2].
        widths: candidate widths, in the order of `ranges`.
        signed: whether negative values are represented.
        narrow: leave the most negative code out.

    Raises:
        QirError: there is not one range per width, or a scheme refuses.
    """
    table = np.asarray(ranges, dtype=np.float32)
    if len(table) != len(widths):
        raise QirError(f"quantizer: {len(table)} ranges for the widths {list(widths)}; expected one per width")
    return tuple(
        scheme_for(spec, bits).parameters(pairs, bits, signed, narrow)
        for bits, pairs in zip(widths, table, strict=True)
    )


def quantize_channels(
    x: NDArray[np.generic], grids: Mapping[int, QuantParameters], bits: Sequence[int], axis: int
) -> tuple[Int, Float, Int]:
    """Quantize with a width per channel to integer codes.

    Args:
        x: the tensor.
        grids: grid of each width that occurs, each over all channels (or one).
        bits: width of each channel; 0 = pruned, its codes are 0.
        axis: axis of the channels.

    Returns:
        Codes int32 (shape of `x`), scale float32 [channels] and zero point int32 [channels].

    Raises:
        QirError: a width has no grid, its codes are not integers times a scale, or the channels do not fit.
    """
    codes = np.zeros(np.shape(x), dtype=np.int32)
    scale, zero_point = np.ones(len(bits), dtype=np.float32), np.zeros(len(bits), dtype=np.int32)
    for width, index in _groups(bits, np.shape(x), axis):
        grid = _grid(grids, width)
        if not grid.has_integer_codes:
            raise QirError(f"per-channel widths: the grid of {width} bits is a codebook; expected an integer scheme")
        part = select_channels(grid, index)
        np.moveaxis(codes, axis, 0)[index] = np.moveaxis(kernels.quantize(np.take(x, index, axis), part, axis), axis, 0)
        scale[index], zero_point[index] = part.scale, part.zero_point
    return codes, scale, zero_point


def fake_quantize_channels(
    x: NDArray[np.generic], grids: Mapping[int, QuantParameters], bits: Sequence[int], axis: int
) -> Float:
    """Fake-quantize with a width per channel; channels of 0 bits become zero.

    Args:
        x: the tensor.
        grids: grid of each width that occurs, each over all channels (or one).
        bits: width of each channel; 0 = pruned.
        axis: axis of the channels.

    Raises:
        QirError: a width has no grid, or the channels do not fit.
    """
    result = np.zeros(np.shape(x), dtype=np.float32)
    for width, index in _groups(bits, np.shape(x), axis):
        part = select_channels(_grid(grids, width), index)
        codes = kernels.quantize(np.take(x, index, axis), part, axis)
        np.moveaxis(result, axis, 0)[index] = np.moveaxis(kernels.dequantize(codes, part, axis), axis, 0)
    return result


def select_channels(grid: QuantParameters, index: NDArray[np.integer]) -> QuantParameters:
    """Return the grid of some channels; a grid that serves the whole tensor serves each of them."""
    pick = index if grid.channels > 1 else np.zeros(len(index), dtype=np.int64)
    return replace(
        grid,
        scale=grid.scale[pick],
        zero_point=grid.zero_point[pick],
        levels=None if grid.levels is None else grid.levels[pick],
        boundaries=None if grid.boundaries is None else grid.boundaries[pick],
    )


def _grid(grids: Mapping[int, QuantParameters], width: int) -> QuantParameters:
    if width not in grids:
        raise QirError(f"per-channel widths: no grid for {width} bits; calibrated are {sorted(grids)}")
    return grids[width]


def _groups(bits: Sequence[int], shape: tuple[int, ...], axis: int) -> list[tuple[int, NDArray[np.int64]]]:
    if not -len(shape) <= axis < len(shape) or shape[axis] != len(bits):
        raise QirError(
            f"per-channel widths: {len(bits)} widths for axis {axis} of shape {shape}; expected one per channel"
        )
    widths = np.asarray(bits)
    return [(int(width), np.flatnonzero(widths == width)) for width in np.unique(widths) if width > 0]
