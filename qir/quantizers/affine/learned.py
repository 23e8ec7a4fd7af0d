"""Uniform grids whose range is a parameter of training: LSQ and PACT.

Both learn the high end of the range; the low end is its mirror image (unsigned: zero) and is never read.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from qir.quantizers.affine.binary import bipolar_fit
from qir.quantizers.affine.uniform import Uniform
from qir.quantizers.parameters import Float, QuantParameters


def mirrored(ranges: Float, signed: bool) -> Float:
    """Return ranges (-high, high), unsigned (0, high)."""
    high = np.maximum(ranges[:, 1], np.float32(0))
    return np.stack([-high if signed else np.zeros_like(high), high], axis=1)


@dataclass(frozen=True)
class Lsq(Uniform):
    """Learned step size (Esser et al., LSQ, ICLR 2020): the grid of `uniform` with zero point 0.

    `fit` starts at the step `2 mean|x| / sqrt(Q)` (section 2.1), Q the largest code: the range is (-step Q, step Q),
    unsigned (0, step Q). Its torch twin gives the range the gradient of equation 3.
    """

    name: ClassVar[str] = "lsq"

    def _parameters(self, ranges: Float, bits: int, signed: bool, narrow: bool) -> QuantParameters:
        return super()._parameters(mirrored(ranges, signed), bits, signed, narrow)

    def _fit(self, rows: Float, bits: int, signed: bool, narrow: bool) -> Float:  # noqa: ARG002
        if signed and bits == 1:
            return bipolar_fit(rows)
        largest = (1 << (bits - 1)) - 1 if signed else (1 << bits) - 1
        high = 2 * np.abs(rows).mean(axis=1, dtype=np.float64) * np.sqrt(largest)
        return np.stack([-high if signed else np.zeros_like(high), high], axis=1).astype(np.float32)


@dataclass(frozen=True)
class Pact(Uniform):
    """Learned clipping (Choi et al., PACT, 2018, equations 1 and 2): activations clipped to [0, high].

    `fit` starts at the largest magnitude. Signed tensors are clipped to [-high, high] on the grid of `uniform`, an
    extension of the paper. Its torch twin gives the range the gradient of equation 3.
    """

    name: ClassVar[str] = "pact"

    def _parameters(self, ranges: Float, bits: int, signed: bool, narrow: bool) -> QuantParameters:
        return super()._parameters(mirrored(ranges, signed), bits, signed, narrow)

    def _fit(self, rows: Float, bits: int, signed: bool, narrow: bool) -> Float:  # noqa: ARG002
        if signed and bits == 1:
            return bipolar_fit(rows)
        return mirrored(np.stack([rows.min(axis=1), np.abs(rows).max(axis=1)], axis=1), signed)
