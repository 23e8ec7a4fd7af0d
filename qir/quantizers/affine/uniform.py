"""Uniform quantization with the semantics of ONNX QuantizeLinear and DequantizeLinear."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from qir.quantizers.affine.binary import bipolar_fit, bipolar_parameters
from qir.quantizers.parameters import Float, QuantParameters, Storage
from qir.quantizers.scales import integer_scale, largest_magnitude, zeros
from qir.quantizers.scheme import Scheme


def signed_codes(bits: int, narrow: bool) -> tuple[int, int]:
    """Return the smallest and largest two's complement code; `narrow` leaves the most negative one out."""
    half = 1 << (bits - 1)
    return (-half + 1 if narrow else -half), half - 1


def symmetric_parameters(ranges: Float, bits: int, narrow: bool) -> QuantParameters:
    """Return the signed grid around zero: `scale = max(|low|, |high|) / (2**(bits-1) - 1)`, zero point 0."""
    low, high = signed_codes(bits, narrow)
    scale = integer_scale(largest_magnitude(ranges), high)
    return QuantParameters(bits, True, scale, zeros(len(ranges)), low, high)


def affine_parameters(ranges: Float, bits: int, low_code: int) -> QuantParameters:
    """Return grid over [min(low, 0), max(high, 0)]: `scale = (high - low) / (2**bits - 1)`, zero represented exactly.

    Args:
        ranges: float32 [channels, 2].
        bits: width.
        low_code: smallest code; 0 for unsigned codes.
    """
    low, high = np.minimum(ranges[:, 0], 0), np.maximum(ranges[:, 1], 0)
    steps = (1 << bits) - 1
    with np.errstate(over="ignore"):
        scale = integer_scale(high - low, steps)
        zero_point = np.clip(np.rint(-low / scale) + np.float32(low_code), low_code, low_code + steps)
    return QuantParameters(bits, low_code < 0, scale, zero_point.astype(np.int32), low_code, low_code + steps)


@dataclass(frozen=True)
class Uniform(Scheme):
    """Symmetric where signed, affine where unsigned (ONNX QuantizeLinear).

    Signed: zero point 0, `scale = max(|low|, |high|) / (2**(bits-1) - 1)`, codes `[-2**(bits-1), 2**(bits-1) - 1]`,
    without the lowest one where `narrow`. Unsigned: over `[min(low, 0), max(high, 0)]`,
    `scale = (high - low) / (2**bits - 1)`, `zero_point = round(-low / scale)`. At 1 bit signed it is `binary`; at
    1 bit unsigned the codes are {0, 1}.
    """

    name: ClassVar[str] = "uniform"
    widths: ClassVar[tuple[int, ...]] = tuple(range(1, 17))
    storage: ClassVar[Storage] = Storage.INTEGER

    def _parameters(self, ranges: Float, bits: int, signed: bool, narrow: bool) -> QuantParameters:
        if not signed:
            return affine_parameters(ranges, bits, low_code=0)
        return bipolar_parameters(ranges) if bits == 1 else symmetric_parameters(ranges, bits, narrow)

    def _fit(self, rows: Float, bits: int, signed: bool, narrow: bool) -> Float:
        return bipolar_fit(rows) if signed and bits == 1 else super()._fit(rows, bits, signed, narrow)


@dataclass(frozen=True)
class UniformAsymmetric(Scheme):
    """Affine for both kinds of codes: signed ones run from `-2**(bits-1)` (ONNX QuantizeLinear to int8)."""

    name: ClassVar[str] = "uniform-asymmetric"
    widths: ClassVar[tuple[int, ...]] = tuple(range(1, 17))
    storage: ClassVar[Storage] = Storage.INTEGER

    def _parameters(self, ranges: Float, bits: int, signed: bool, narrow: bool) -> QuantParameters:  # noqa: ARG002
        return affine_parameters(ranges, bits, low_code=-(1 << (bits - 1)) if signed else 0)
