"""Whether ONNX Runtime's kernels for x86 CPUs without VNNI can add 8-bit products wrongly: the bound, kernel by kernel.

These kernels (MLAS, VPMADDUBSW) multiply unsigned by signed bytes, add neighbouring products in pairs and clip each
pair's sum to int16; zero points are corrected afterwards, so what counts are the codes as they are stored. Measured on
AVX2 with ONNX Runtime 1.22.1 to 1.32.0. With VNNI or on ARM no sum is clipped.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from qir.types import DType

WeightStorage = Literal["auto", "int8", "uint8"]
"""How 8-bit codes of weights are stored: int8 where no sum can saturate and uint8 elsewhere, or one of the two."""

LOWEST_SUM, HIGHEST_SUM = -(2**15), 2**15 - 1

_SWAPPED = {"ConvInteger"}
"""Operators whose kernel takes the weight as its unsigned operand; it has no exact path for depthwise ones."""


@dataclass(frozen=True, slots=True)
class CodeRange:
    """The stored codes of one operand.

    Attributes:
        element: element type of the codes.
        low: smallest code that can occur.
        high: largest code that can occur.
    """

    element: DType
    low: int
    high: int


def saturates(largest: int, low: int, high: int) -> bool:
    """Tell whether two products of unsigned codes to `largest` and signed ones from `low` to `high` can leave int16."""
    return 2 * largest * high > HIGHEST_SUM or 2 * largest * low < LOWEST_SUM


def can_saturate(op: str, data: CodeRange, weight: CodeRange, *, depthwise: bool = False) -> bool:
    """Return whether the kernel of a layer can clip a sum that it should not.

    Args:
        op: op type of the layer, on codes or between DequantizeLinear and QuantizeLinear.
        data: codes of the data operand.
        weight: codes of the weight operand, which may be computed too.
        depthwise: a convolution with one channel in and one out per group, whose kernel is exact; not ConvInteger's.
    """
    swapped = op in _SWAPPED
    first, second = (weight, data) if swapped else (data, weight)
    if (first.element, second.element) != (DType.UINT8, DType.INT8) or (depthwise and not swapped):
        return False
    return saturates(first.high, second.low, second.high)
