"""Arithmetic shared by all schemes: value to code, code to value, grid. float32 throughout."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from qir.errors import QirError
from qir.quantizers.parameters import Float, Int, QuantParameters


def as_float32(x: NDArray[np.generic], what: str) -> Float:
    """Give a tensor as float32 and refuse NaN.

    Args:
        x: any numeric array.
        what: how the error names it.

    Raises:
        QirError: the tensor holds NaN.
    """
    values = np.asarray(x, dtype=np.float32)
    if values.size and np.isnan(values.min()):
        raise QirError(f"{what}: holds NaN, which has no place on a grid; look for a division by zero before it")
    return values


def quantize(x: NDArray[np.generic], parameters: QuantParameters, axis: int | None) -> Int:
    """Map values to codes: int32, the shape of `x`.

    Grids of step 1: `clamp(round_half_even(x / scale) + zero_point)` with float32 true division (ONNX QuantizeLinear).
    Infinite values saturate.

    Args:
        x: values, any shape.
        parameters: the grid.
        axis: axis of the channels, None for one grid.

    Raises:
        QirError: NaN in `x`, or the axis does not fit.
    """
    values = as_float32(x, "quantize")
    shape = channel_shape(values.shape, parameters.channels, axis)
    if parameters.boundaries is not None:
        index = _interval(values, parameters.boundaries, axis if parameters.channels > 1 else None)
        return (index * parameters.code_step + parameters.low_code).astype(np.int32)
    if parameters.codes == 2 and parameters.code_step == 2:
        return np.where(values >= 0, np.int32(parameters.high_code), np.int32(parameters.low_code)).astype(np.int32)
    scale = parameters.scale.reshape(shape)
    with np.errstate(over="ignore", under="ignore"):
        codes = _mid_rise_codes(values, scale) if parameters.code_step == 2 else np.rint(values / scale)
    codes = np.asarray(codes)
    codes += parameters.zero_point.reshape(shape).astype(np.float32)
    np.clip(codes, parameters.low_code, parameters.high_code, out=codes)
    return codes.astype(np.int32)


def _mid_rise_codes(values: Float, scale: Float) -> Float:
    """Return odd codes `2 * floor(x / (2 * scale)) + 1`."""
    codes = np.asarray(np.floor(values / (scale * np.float32(2.0))))
    codes *= np.float32(2.0)
    codes += np.float32(1.0)
    return codes


def _interval(values: Float, boundaries: Float, axis: int | None) -> Int:
    """Return the index of the interval of each value: how many boundaries are not above it."""
    if axis is None:
        return np.searchsorted(boundaries[0], values, side="right").astype(np.int32)
    index = np.empty(values.shape, dtype=np.int32)
    source, target = np.moveaxis(values, axis, 0), np.moveaxis(index, axis, 0)
    for channel, row in enumerate(boundaries):
        target[channel] = np.searchsorted(row, source[channel], side="right")
    return index


def dequantize(codes: NDArray[np.integer], parameters: QuantParameters, axis: int | None) -> Float:
    """Map codes to values: `(code - zero_point) * scale` in float32, or a look-up of the level.

    Args:
        codes: integers on the grid's codes.
        parameters: the grid.
        axis: axis of the channels, None for one grid.

    Raises:
        QirError: the axis does not fit.
    """
    shape = channel_shape(codes.shape, parameters.channels, axis)
    if parameters.levels is None:
        centred = codes.astype(np.int32) - parameters.zero_point.reshape(shape)
        return (centred.astype(np.float32) * parameters.scale.reshape(shape)).astype(np.float32)
    index = (codes.astype(np.int64) - parameters.low_code) // parameters.code_step
    channel = np.arange(parameters.channels).reshape(shape)
    return parameters.levels[channel, index]


def fake_quantize(x: NDArray[np.generic], parameters: QuantParameters, axis: int | None) -> Float:
    """Replace every value by the level of its code: float32, the shape of `x`.

    Where the grid is affine, codes are whole numbers in float32 throughout (their widths end at 16 bits): the same
    values as by way of integers.

    Args:
        x: values, any shape.
        parameters: the grid.
        axis: axis of the channels, None for one grid.

    Raises:
        QirError: NaN in `x`, or the axis does not fit.
    """
    if not parameters.is_affine:
        return dequantize(quantize(x, parameters, axis), parameters, axis)
    values = as_float32(x, "quantize")
    shape = channel_shape(values.shape, parameters.channels, axis)
    scale, zero_point = parameters.scale.reshape(shape), parameters.zero_point.reshape(shape)
    return onto_affine_grid(values, scale, zero_point, (parameters.low_code, parameters.high_code))


def onto_affine_grid(
    values: Float, scale: Float, zero_point: Int, codes: tuple[int, int], out: Float | None = None
) -> Float:
    """`fake_quantize` on an affine grid whose parameters broadcast against the values.

    Args:
        values: float32, without NaN.
        scale: float32.
        zero_point: int32, of the same shape.
        codes: smallest and largest code.
        out: where the result goes; a new array by default.
    """
    offset = zero_point.astype(np.float32) if zero_point.any() else None
    with np.errstate(over="ignore", under="ignore"):
        made = np.asarray(np.divide(values, scale, out=out))
        np.rint(made, out=made)
        if offset is not None:
            made += offset
        np.clip(made, np.float32(codes[0]), np.float32(codes[1]), out=made)
        if offset is not None:
            made -= offset
        made *= scale
    return made


def grid(parameters: QuantParameters) -> Float:
    """List every level: float32 [channels or 1, codes], ascending."""
    if parameters.levels is not None:
        return np.sort(parameters.levels, axis=1)
    codes = np.arange(parameters.low_code, parameters.high_code + 1, parameters.code_step, dtype=np.int32)
    centred = codes[None, :] - parameters.zero_point[:, None]
    return (centred.astype(np.float32) * parameters.scale[:, None]).astype(np.float32)


def channel_shape(shape: tuple[int, ...], channels: int, axis: int | None) -> tuple[int, ...]:
    """Return the shape that lets [channels] broadcast against a tensor along `axis`.

    Raises:
        QirError: there is no such axis, or it is not as long as there are channels.
    """
    if channels == 1:
        return (1,) * len(shape)
    if axis is None or not -len(shape) <= axis < len(shape) or shape[axis] != channels:
        raise QirError(
            f"quantizer: {channels} channels on axis {axis} of shape {shape}; expected an axis of that length"
        )
    return tuple(channels if index == axis % len(shape) else 1 for index in range(len(shape)))


def by_channel(x: NDArray[np.generic], axis: int | None) -> Float:
    """Give a tensor as float32 [channels or 1, elements], and refuse empty tensors and values that are not finite.

    Raises:
        QirError: the tensor is empty, holds NaN or infinity, or lacks the axis.
    """
    values = as_float32(x, "fit")
    if not values.size:
        raise QirError("fit: the tensor is empty; expected at least one value")
    if not (np.isfinite(values.min()) and np.isfinite(values.max())):
        raise QirError("fit: holds infinity, which no range reaches; look for an overflow before it")
    if axis is None:
        return values.reshape(1, -1)
    if not -values.ndim <= axis < values.ndim:
        raise QirError(f"fit: axis {axis} of a tensor of shape {values.shape}; expected an axis it has")
    return np.moveaxis(values, axis, 0).reshape(values.shape[axis], -1)
