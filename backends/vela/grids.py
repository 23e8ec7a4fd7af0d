"""The int8 grids of a network: of its activations from calibrated quantizers, of its weights from their values."""

from __future__ import annotations

import numpy as np

from qir.backends.vela.tflite import TfliteGrid
from qir.constants import array_of
from qir.errors import TargetError
from qir.fake_quant import FakeQuant
from qir.graph import Value
from qir.quantizers import get_scheme
from qir.tensor import Array

UNKNOWN_RANGE = (-8.0, 8.0)
"""Range of an activation that no calibrated quantizer knows: cycles do not depend on it."""

_LARGEST = 127


def affine_grid(low: float, high: float) -> TfliteGrid:
    """Return the int8 grid over a range that holds zero (scheme `uniform-asymmetric`)."""
    ranges = np.array([[low, high]], np.float32)
    found = get_scheme("uniform-asymmetric").parameters(ranges, 8, signed=True)
    return TfliteGrid((float(found.scale[0]),), int(found.zero_point[0]))


def quantizer_grid(quantizer: FakeQuant) -> TfliteGrid:
    """Return the int8 grid over an activation quantizer's range at its chosen width.

    Narrower codes are stored in 8 bits.

    Raises:
        TargetError: the quantizer has a grid per channel.
    """
    bits = quantizer.bits
    ranges = quantizer.ranges(bits) if isinstance(bits, int) and quantizer.is_calibrated else None
    if not isinstance(bits, int) or (ranges is not None and len(ranges) > 1):
        raise TargetError(f"quantizer {quantizer.name!r}: an int8 activation has one grid, not one per channel")
    return affine_grid(*(UNKNOWN_RANGE if ranges is None else ranges[0].tolist()))


def real_values(value: Value | None) -> Array | None:
    """Return the float values of a constant, before its fake-quant node where it has one; None for an activation."""
    if value is not None and value.producer is not None and value.producer.is_fake_quant:
        value = value.producer.input(0)
    return array_of(value)


def kernel_codes(value: Value, axis: int) -> tuple[Array, tuple[float, ...]]:
    """Return a weight in int8.

    Codes of its quantizer's grid at its chosen width, else symmetric 8-bit codes per channel.

    Args:
        value: the weight, a constant or the result of its fake-quant node.
        axis: the output channels' axis.

    Returns:
        Codes int8 in the weight's shape, and the scales: one, or one per channel.

    Raises:
        TargetError: the quantizer's grid has no int8 form (levels, zero point, other axis, widths per channel).
        QirError: the quantizer is not calibrated.
    """
    array = real_values(value)
    if array is None:
        raise TargetError(f"weight {value.name!r}: is computed; an int8 network needs a constant: run fold-constants")
    if value.producer is None:
        return symmetric_codes(array, axis)
    quantizer = FakeQuant(value.producer)
    bits = quantizer.bits
    if not isinstance(bits, int):
        raise TargetError(f"quantizer {quantizer.name!r}: widths per channel have no int8 form")
    grid = quantizer.grid()
    fits = grid.has_integer_codes and not grid.zero_point.any() and -128 <= grid.low_code <= grid.high_code <= 127
    if not fits or (grid.channels > 1 and quantizer.granularity.axis != axis):
        raise TargetError(
            f"quantizer {quantizer.name!r}: its grid has no int8 form; expected integer codes around zero, one scale "
            f"or one per output channel (axis {axis})"
        )
    codes = quantizer.codes(array)
    return codes.astype(np.int8), tuple(grid.scale.tolist())


def symmetric_codes(array: Array, axis: int | None = None) -> tuple[Array, tuple[float, ...]]:
    """Return symmetric 8-bit codes: int8 in the array's shape, and the scales, one per channel along `axis`."""
    others = None if axis is None else tuple(i for i in range(array.ndim) if i != axis)
    largest = np.abs(array).max(axis=others, keepdims=True, initial=0.0)
    scale = np.where(largest > 0, largest, 1.0) / _LARGEST
    codes = np.clip(np.rint(array / scale), -_LARGEST, _LARGEST).astype(np.int8)
    return codes, tuple(np.asarray(scale, np.float32).reshape(-1).tolist())
