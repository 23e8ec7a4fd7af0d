"""What the quantizers of QONNX compute: numpy functions, float32 in and out, step by step as their definition says."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from qir.errors import QirError
from qir.tensor import Array

_ROUNDING: dict[str, Callable[[Array], Array]] = {
    "ROUND": np.rint,
    "HALF_EVEN": np.rint,
    "CEIL": np.ceil,
    "FLOOR": np.floor,
    "UP": lambda x: np.sign(x) * np.ceil(np.abs(x)),
    "DOWN": np.trunc,
    "HALF_UP": lambda x: np.sign(x) * np.floor(np.abs(x) + np.float32(0.5)),
    "HALF_DOWN": lambda x: np.sign(x) * np.ceil(np.abs(x) - np.float32(0.5)),
}


def quant(
    x: Array, scale: Array, zero_point: Array, bits: Array, *, signed: bool, narrow: bool, rounding: str = "ROUND"
) -> Array:
    """Quant: (round(clip(x / scale + zero_point)) - zero_point) · scale.

    The zero point is added before rounding, unlike in QuantizeLinear, so that the two agree at zero point 0 only.

    Args:
        x: float32, any shape.
        scale: float32, broadcastable to `x`.
        zero_point: float32, broadcastable to `x`.
        bits: one number, the width; may be fractional. 1 bit signed has the codes -1 and +1.
        signed: whether codes are two's complement.
        narrow: without the lowest code where signed, without the highest where not.
        rounding: rounding mode, any case.

    Raises:
        QirError: the rounding mode is unknown, or the width is not a single number.
    """
    if rounding.upper() not in _ROUNDING:
        raise QirError(f"Quant: rounding mode {rounding!r} is unknown; expected one of {', '.join(_ROUNDING)}")
    if np.size(bits) != 1:
        raise QirError(f"Quant: a bit width of shape {np.shape(bits)}; expected one width for the tensor")
    width = float(np.reshape(bits, ())[()])
    codes = np.asarray(x / scale + zero_point, np.float32)
    if width == 1 and signed:
        codes = _bipolar(codes)
    else:
        low, high = quant_limits(width, signed=signed, narrow=narrow)
        codes = _ROUNDING[rounding.upper()](np.clip(codes, np.float32(low), np.float32(high)))
    return np.asarray((codes - zero_point) * scale, np.float32)


def quant_limits(bits: float, *, signed: bool, narrow: bool) -> tuple[float, float]:
    """Return the smallest and largest code of Quant."""
    if signed:
        half = 2.0 ** (bits - 1)
        return -half + narrow, half - 1
    return 0.0, 2.0**bits - 1 - narrow


def bipolar_quant(x: Array, scale: Array) -> Array:
    """BipolarQuant: +scale where x >= 0, else -scale."""
    return np.asarray(_bipolar(x) * scale, np.float32)


def _bipolar(x: Array) -> Array:
    return np.where(x >= 0, np.float32(1), np.float32(-1))


def multi_threshold(
    x: Array, thresholds: Array, *, out_scale: float = 1.0, out_bias: float = 0.0, axis: int = 1
) -> Array:
    """MultiThreshold: out_scale · (number of thresholds not above x) + out_bias.

    Args:
        x: float32, any shape.
        thresholds: float32 [channels or 1, thresholds], not necessarily ascending.
        out_scale: step of the result.
        out_bias: smallest result.
        axis: axis of the channels.

    Raises:
        QirError: there is neither one row of thresholds nor one per channel.
    """
    ordered = np.sort(np.asarray(thresholds, np.float32), axis=1)
    if ordered.shape[0] == 1:
        counts = np.searchsorted(ordered[0], x, side="right").astype(np.float32)
    else:
        if x.ndim <= axis or x.shape[axis] != ordered.shape[0]:
            raise QirError(
                f"MultiThreshold: {ordered.shape[0]} rows of thresholds for axis {axis} of shape {x.shape}; "
                "expected one row, or one a channel"
            )
        counts = np.empty(x.shape, np.float32)
        source, target = np.moveaxis(x, axis, 0), np.moveaxis(counts, axis, 0)
        for channel, row in enumerate(ordered):
            target[channel] = np.searchsorted(row, source[channel], side="right")
    return np.asarray(np.float32(out_scale) * counts + np.float32(out_bias), np.float32)
