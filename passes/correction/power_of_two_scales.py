"""Ranges moved so that every scale is a power of two: requantization becomes a shift.

With such scales, even zero points and sums below 2^24, float32 arithmetic is exact, so that every executor computes the
same codes, whether it runs on integers or on floats.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from qir.errors import PassError, QirError
from qir.fake_quant import FakeQuant
from qir.module import Module
from qir.passes.infrastructure.contract import Pass, PassContext
from qir.quantizers import QuantParameters
from qir.tensor import Array


@dataclass(frozen=True)
class PowerOfTwoScales(Pass):
    """Move the calibrated ranges of every fake-quant node to the nearest power-of-two scale and even zero point.

    Verified IR in, verified IR out; run it after `calibrate`. Every candidate width is moved, so bits stay free.
    """

    name: ClassVar[str] = "power-of-two-scales"

    def run(self, module: Module, context: PassContext) -> bool:  # noqa: ARG002
        """Move the ranges; raises `QirError` for quantizers that are not calibrated, stale, or on another grid."""
        found = [FakeQuant(node) for graph in module.graphs for node in graph.fake_quants()]
        if not found:
            raise PassError("power-of-two-scales: the network has no fake-quant nodes: run insert-fake-quant first")
        for quantizer in found:
            if quantizer.is_stale or not quantizer.is_calibrated:
                raise QirError(
                    f"quantizer {quantizer.name!r} is not calibrated, or its weight changed since: run calibrate first"
                )
            quantizer.calibration = np.stack([_moved(quantizer, bits) for bits in quantizer.widths])
        return True


def _moved(quantizer: FakeQuant, bits: int) -> Array:
    """Return the ranges of one width with power-of-two scales: float32 [channels or 1, 2]."""
    scheme, ranges = quantizer.scheme(bits), quantizer.ranges(bits)
    signed, narrow = quantizer.signed, quantizer.narrow
    grid = scheme.parameters(ranges, bits, signed, narrow)
    if grid.has_integer_codes:
        scale = np.exp2(np.rint(np.log2(grid.scale.astype(np.float64))))
        for moved in (_symmetric(grid, scale), _affine(grid, scale, ranges)):
            found = scheme.parameters(moved, bits, signed, narrow)
            if (found.scale == scale).all() and not (found.zero_point % 2).any():
                return moved
    raise QirError(
        f"quantizer {quantizer.name!r}: scheme {scheme.name!r} at {bits} bits has no power-of-two scales; use uniform"
    )


def _symmetric(grid: QuantParameters, scale: Array) -> Array:
    magnitude = scale * grid.high_code
    return np.stack([-magnitude, magnitude], axis=1).astype(np.float32)


def _affine(grid: QuantParameters, scale: Array, ranges: Array) -> Array:
    steps = grid.high_code - grid.low_code
    below = 2 * np.rint(-np.minimum(ranges[:, 0], 0) / scale / 2)
    below = np.clip(below, 0, steps - steps % 2)
    return np.stack([-below * scale, (steps - below) * scale], axis=1).astype(np.float32)
