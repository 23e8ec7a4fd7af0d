"""Ranges and signs of quantized activations, from their histograms."""

from __future__ import annotations

import numpy as np

from qir.fake_quant import FakeQuant
from qir.passes.calibration.clipping import threshold
from qir.passes.calibration.observers import Histogram
from qir.quantizers import QuantParameters, Scheme
from qir.tensor import Array


def activation_ranges(quantizer: FakeQuant, histogram: Histogram, method: str) -> Array:
    """Return ranges of every candidate width.

    The quantizer gets signed codes where these serve values below zero better.

    The unsigned grids of most schemes begin at zero (those of `uniform`, `zoomq` and codebooks need not): values below
    would all be clipped. Unsigned codes stay where that loses less, as with the short negative side of hard-swish.

    Args:
        quantizer: quantizer of an activation.
        histogram: its float values.
        method: how values are clipped, a name in `qir.passes.calibration.clipping.METHODS`.

    Returns:
        (low, high), float32 [widths, 1, 2].

    Raises:
        QirError: a scheme refuses, or the histogram has seen nothing.
    """
    signed = quantizer.signed
    ranges, grids = _grids(quantizer, histogram, method, signed=signed)
    begin_at_zero = all(scheme.grid(grid).min() >= 0 for scheme, grid in grids)
    if signed or histogram.low >= 0 or not begin_at_zero or not all(True in s.signedness for s, _ in grids):
        return ranges
    around_zero, others = _grids(quantizer, histogram, method, signed=True)
    values = histogram.sample()
    if _error(values, others) >= _error(values, grids):
        return ranges
    quantizer.signed = True
    return around_zero


def _grids(
    quantizer: FakeQuant, histogram: Histogram, method: str, *, signed: bool
) -> tuple[Array, list[tuple[Scheme, QuantParameters]]]:
    """Return ranges of every candidate width [widths, 1, 2], and the schemes' grids.

    `QirError` where a scheme refuses.
    """
    narrow, ranges, grids = quantizer.narrow, [], []
    for bits in quantizer.widths:
        ranges.append(np.asarray([threshold(histogram, method, bits, signed=signed)], np.float32))
        scheme = quantizer.scheme(bits)
        grids.append((scheme, scheme.parameters(ranges[-1], bits, signed, narrow)))
    return np.stack(ranges), grids


def _error(values: Array, grids: list[tuple[Scheme, QuantParameters]]) -> float:
    """Return the sum of squared errors over the grids."""
    changes = (scheme.fake_quantize(values, grid) - values for scheme, grid in grids)
    return sum(float(np.square(change, dtype=np.float64).sum()) for change in changes)
