"""What a scheme computes from a range and a number of bits: everything that is needed to quantize a tensor."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

import numpy as np
from numpy.typing import NDArray

from qir.errors import QirError

Float = NDArray[np.float32]
Int = NDArray[np.int32]

SMALLEST_SCALE = np.float32(2.0**-60)
"""No scale is smaller: the product of two scales (the scale of a bias) stays a normal float32."""

DEAD_SCALE = np.float32(2.0**-10)
"""Scale of a tensor or channel whose range is only zero, on a grid that holds zero.

Every value is exact at any scale; this one keeps an int32 bias of `input scale * 2**-10` both wide (2**21 input steps)
and fine.
"""


class Storage(Enum):
    """How the values of a scheme are stored, so that an exporter knows whether a target can run it."""

    INTEGER = "integer"
    """Integer codes, scale and zero point: `value = (code - zero_point) * scale`."""
    CODEBOOK = "codebook"
    """Indices into a table of levels."""
    BINARY_SUM = "binary-sum"
    """A sum of scaled binaries; here as indices into the table of its sums."""


@dataclass(frozen=True, slots=True, eq=False)
class QuantParameters:
    """A grid per channel, and the rule that maps a value to one of its codes.

    Codes are `low_code, low_code + code_step, ..., high_code`. A code stands for `(code - zero_point) * scale`, or,
    where `levels` is given, for `levels[channel, (code - low_code) / code_step]`. A value maps to the code of the
    interval of `boundaries` it lies in (closed below); without boundaries to the nearest code: half to even on grids
    of step 1 (ONNX QuantizeLinear), upwards on mid-rise grids of step 2.

    Attributes:
        bits: bits per element in storage.
        signed: whether negative values are represented.
        scale: float32 [channels or 1], positive, finite, at least `SMALLEST_SCALE`.
        zero_point: int32 [channels or 1].
        low_code: smallest code.
        high_code: largest code.
        code_step: distance of neighbouring codes; 2 for mid-rise grids, whose codes are odd (1 bit: {-1, +1}).
        levels: float32 [channels or 1, codes] in the order of codes, or None where scale and zero point say it all.
        boundaries: float32 [channels or 1, codes - 1], ascending decision thresholds, or None for the nearest code.

    Raises:
        QirError: a scale is not positive and finite, or shapes disagree.
    """

    bits: int
    signed: bool
    scale: Float
    zero_point: Int
    low_code: int
    high_code: int
    code_step: int = 1
    levels: Float | None = None
    boundaries: Float | None = None

    def __post_init__(self) -> None:
        if self.scale.ndim != 1 or self.scale.shape != self.zero_point.shape:
            raise QirError(
                f"quantizer: scale {self.scale.shape} and zero point {self.zero_point.shape}; expected [channels] twice"
            )
        reach = np.maximum(self.high_code - self.zero_point, self.zero_point - self.low_code)
        levels_fit = self.scale.astype(np.float64) * reach <= np.finfo(np.float32).max
        if not (levels_fit.all() and (self.scale >= SMALLEST_SCALE).all()):
            raise QirError(
                f"quantizer: scale {self.scale.min()} to {self.scale.max()}; expected at least {SMALLEST_SCALE} and "
                "levels that are finite: the range is too wide for float32, rescale the tensor"
            )
        for name, table, width in (
            ("levels", self.levels, self.codes),
            ("boundaries", self.boundaries, self.codes - 1),
        ):
            if table is not None and table.shape != (self.channels, width):
                raise QirError(f"quantizer: {name} of shape {table.shape}; expected {(self.channels, width)}")

    @property
    def channels(self) -> int:
        """Number of channels; 1 where one grid serves the whole tensor."""
        return int(self.scale.shape[0])

    @property
    def codes(self) -> int:
        """Number of codes of the grid."""
        return (self.high_code - self.low_code) // self.code_step + 1

    @property
    def is_affine(self) -> bool:
        """Whether ONNX QuantizeLinear, Clip and DequantizeLinear compute exactly this quantizer."""
        return self.levels is None and self.boundaries is None and self.code_step == 1

    @property
    def table(self) -> Float:
        """The levels of a grid that is a table: float32 [channels or 1, codes].

        Raises:
            QirError: scale and zero point say where its codes lie.
        """
        if self.levels is None:
            raise QirError(f"a grid of {self.codes} integer codes has no table to look levels up in: write its codes")
        return self.levels

    @property
    def has_integer_codes(self) -> bool:
        """Whether `value = (code - zero_point) * scale` holds, so that stored codes need DequantizeLinear only."""
        return self.levels is None
