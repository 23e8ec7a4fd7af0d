"""Integers that a weight and a bias are: their codes, scales and zero points."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from qir.errors import ExportError
from qir.quantizers import kernels
from qir.tensor import Array


@dataclass(frozen=True, eq=False)
class Codes:
    """A weight as integers: value = (codes - zero_point) * scale along `axis`, or a scale a block.

    Attributes:
        values: int32, the weight's shape.
        scale: float32 [channels or 1].
        zero_point: int32 [channels or 1].
        low, high: smallest and largest code that the grid has.
    """

    values: Array
    scale: npt.NDArray[np.float32]
    zero_point: npt.NDArray[np.int32]
    low: int
    high: int

    def centred(self, axis: int | None) -> Array:
        """Return the codes less their zero points: int32, the weight's shape; not for blocks.

        Args:
            axis: axis of the channels, None for one zero point.
        """
        shape = kernels.channel_shape(self.values.shape, self.zero_point.size, axis)
        return np.asarray(self.values - self.zero_point.reshape(shape))


@dataclass(frozen=True, eq=False)
class BiasCodes:
    """A bias in steps of its layer's sums: value = values * scale, rounded.

    Attributes:
        values: [channels] or [rows, channels]; int32, or int64 where int32 does not hold them (16-bit operands).
        scale: float32 s_x·s_w [channels or 1].
    """

    values: Array
    scale: npt.NDArray[np.float32]

    @property
    def exceeds_int32(self) -> bool:
        """Whether int32 does not hold a code."""
        return self.values.dtype.itemsize > 4


def bias_codes(layer: str, bias: Array, product: Array) -> BiasCodes:
    """Return the codes of a bias.

    Args:
        layer: name of the layer, for messages.
        bias: float [channels] or [rows, channels]; one row becomes [channels], as Gemm takes it.
        product: s_x·s_w [channels or 1].

    Raises:
        ExportError: a code does not fit int64 (the product of the scales underflows against the bias).
    """
    values, scale = bias.astype(np.float64), product.astype(np.float32)
    if values.ndim == 2 and len(values) == 1:
        values = values[0]
    codes = np.rint(values / scale)
    largest = np.abs(codes).max(initial=0)
    if not largest < 2**62:
        raise ExportError(
            f"layer {layer!r}: its bias (largest {np.abs(values).max():g}) exceeds int64 at scale s_x*s_w = "
            f"{scale.min():g}: run fit-bias after calibrate, or equalize the weights"
        )
    return BiasCodes(codes.astype(np.int32 if largest < 2**31 else np.int64), scale)
