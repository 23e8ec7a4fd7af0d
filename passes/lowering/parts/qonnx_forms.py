"""How a grid is written as a quantizer of QONNX."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from qir.errors import ExportError
from qir.passes.analysis.arithmetic.codes import Codes
from qir.passes.analysis.arithmetic.quantizer import QuantizerArithmetic
from qir.tensor import Array

LARGEST_BITS = 24
"""float32, in which QONNX computes, holds every integer of this many bits."""


@dataclass(frozen=True, eq=False)
class QonnxForm:
    """A quantizer of QONNX.

    Attributes:
        quantizer: Quant or BipolarQuant.
        scale: float32 [channels or 1].
        bits: width that the file names.
        signed, narrow: attributes of Quant.
        bounds: smallest and largest value, where the grid is a part of Quant's; else None.
    """

    quantizer: str
    scale: Array
    bits: int = 1
    signed: bool = True
    narrow: bool = False
    bounds: tuple[np.float32, np.float32] | None = None

    @property
    def data_type(self) -> str:
        """The name that QONNX infers for the result: an integer type at scale 1, else a scaled integer."""
        unit = bool((self.scale == 1).all())
        if self.quantizer == "BipolarQuant":
            return "BIPOLAR" if unit else "FLOAT32"
        return integer_type(self.bits, signed=self.signed) if unit else f"SCALEDINT<{self.bits}>"


def integer_type(bits: int, *, signed: bool) -> str:
    """QONNX's name of an integer type."""
    return "BINARY" if bits == 1 and not signed else f"{'INT' if signed else 'UINT'}{bits}"


def smallest_type(low: int, high: int) -> str:
    """QONNX's name of the smallest integer type that holds all of low … high."""
    if low >= 0:
        return integer_type(max(high.bit_length(), 1), signed=False)
    return integer_type(_signed_bits(low, high), signed=True)


def weight_form(record: QuantizerArithmetic, codes: Codes) -> QonnxForm:
    """Return the quantizer of QONNX on a weight that lies on its grid already.

    Args:
        record: arithmetic of the weight's quantizer.
        codes: the weight as integers.
    """
    if _is_bipolar(record):
        return QonnxForm("BipolarQuant", codes.scale)
    bits, signed, narrow = _smallest(codes.low - int(codes.zero_point.max()), codes.high - int(codes.zero_point.min()))
    return QonnxForm("Quant", codes.scale, bits, signed, narrow)


def activation_form(record: QuantizerArithmetic) -> QonnxForm:
    """Return the quantizer of QONNX that computes exactly what an activation's quantizer computes.

    QONNX adds the zero point before it rounds, so that a zero point other than 0 rounds other ties than QuantizeLinear.
    Such a grid is written without one: as the signed grid of the same width where the zero point is half the codes,
    else as the part of a wider signed grid that Clip cuts out.

    Args:
        record: arithmetic of the activation's quantizer.

    Raises:
        ExportError: the width differs per channel, codes do not stand for code times scale, channels have different
            zero points, or float32 does not hold the codes.
    """
    quantizer = record.quantizer
    if not isinstance(quantizer.bits, int):
        raise ExportError(
            f"quantizer {quantizer.name!r}: QONNX holds one width for an activation: choose one for all channels"
        )
    grid = record.grid
    if _is_bipolar(record):
        return QonnxForm("BipolarQuant", grid.scale)
    if not grid.is_affine:
        raise ExportError(
            f"quantizer {quantizer.name!r}: its levels are not multiples of a scale, and QONNX has no other: "
            "use a uniform scheme"
        )
    zero = int(grid.zero_point[0])
    if (grid.zero_point != zero).any():
        raise ExportError(f"quantizer {quantizer.name!r}: zero points differ between channels: calibrate it per tensor")
    low, high = grid.low_code - zero, grid.high_code - zero
    bits, signed, narrow = _smallest(low, high)
    if bits > LARGEST_BITS:
        raise ExportError(
            f"quantizer {quantizer.name!r}: codes of {bits} bits; QONNX computes in float32, which holds 24"
        )
    if (low, high) == _limits(bits, signed=signed, narrow=narrow):
        return QonnxForm("Quant", grid.scale, bits, signed, narrow)
    bounds = np.float32(low) * grid.scale[0], np.float32(high) * grid.scale[0]
    return QonnxForm("Quant", grid.scale, bits, signed, narrow, bounds)


def _is_bipolar(record: QuantizerArithmetic) -> bool:
    return record.quantizer.bits == 1 and record.grid.code_step == 2 and record.grid.levels is None


def _smallest(low: int, high: int) -> tuple[int, bool, bool]:
    """Return bits, signed and narrow of the smallest grid that holds low … high."""
    if low >= 0:
        return max(high.bit_length(), 1), False, False
    bits = _signed_bits(low, high)
    return bits, True, low == -high and high == (1 << (bits - 1)) - 1


def _signed_bits(low: int, high: int) -> int:
    """Return two's complement bits that hold low … high, at least 2: QONNX takes 1 signed bit for -1 and +1."""
    return max((-low - 1).bit_length(), high.bit_length(), 1) + 1


def _limits(bits: int, *, signed: bool, narrow: bool) -> tuple[int, int]:
    half = 1 << (bits - 1)
    return (-half + narrow, half - 1) if signed else (0, 2 * half - 1)
