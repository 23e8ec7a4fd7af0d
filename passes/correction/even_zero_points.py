"""Ranges of activations widened until every zero point is even, so that ties round alike in all executors.

QuantizeLinear and integer multipliers round before the zero point is added, fused kernels of averages, sums, products
after it: half to even gives the same code of a tie where the zero point is even, the neighbouring one where it is odd.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from qir.errors import PassError
from qir.fake_quant import FakeQuant
from qir.module import Module
from qir.passes.infrastructure.contract import Pass, PassContext
from qir.tensor import Array


@dataclass(frozen=True)
class EvenZeroPoints(Pass):
    """Widen calibrated ranges of activations on uniform grids, by less than two steps, to the nearest even zero point.

    Verified IR in, verified IR out; run it after `calibrate`. Every candidate width is moved, so bits stay free.
    """

    name: ClassVar[str] = "even-zero-points"

    def run(self, module: Module, context: PassContext) -> bool:
        """Widen; raises `PassError` for quantizers that are not calibrated."""
        del context
        changed = False
        for graph in module.graphs:
            for quantizer in map(FakeQuant, graph.fake_quants()):
                if quantizer.is_weight:
                    continue
                ranges = [_widened(quantizer, bits) for bits in quantizer.widths]
                if any(moved for _, moved in ranges):
                    quantizer.calibration = np.stack([found for found, _ in ranges])
                    changed = True
        return changed


def _widened(quantizer: FakeQuant, bits: int) -> tuple[Array, bool]:
    """Return the ranges of one width, float32 [1, 2], and whether they moved."""
    if not quantizer.is_calibrated:
        raise PassError(f"even-zero-points: quantizer {quantizer.name!r} is not calibrated: run calibrate first")
    ranges, scheme = quantizer.ranges(bits), quantizer.scheme(bits)
    grid = scheme.parameters(ranges, bits, quantizer.signed, quantizer.narrow)
    if not grid.is_affine or grid.channels > 1 or not int(grid.zero_point[0]) % 2:
        return ranges, False
    low, high = (float(edge) for edge in ranges[0])
    trials = []
    for zero in (int(grid.zero_point[0]) - 1, int(grid.zero_point[0]) + 1):
        below, above = zero - grid.low_code, grid.high_code - zero
        if below > 0 and above > 0:
            step = max(-low / below, high / above)
            trials.append((step, np.asarray([[-step * below, step * above]], np.float32)))
    for _, trial in sorted(trials, key=lambda found: found[0]):
        found = scheme.parameters(trial, bits, quantizer.signed, quantizer.narrow)
        if not int(found.zero_point[0]) % 2:
            return trial, True
    return ranges, False
