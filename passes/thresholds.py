"""From a histogram to the clipping range of a width: one function a calibration method.

Every method takes a `Histogram`, the width, and whether codes are signed, and returns (low, high) in the unit of the
values. `METHODS` maps the names of the pipeline option `calibrate{method=…}` to them.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from qir.errors import QirError
from qir.passes.observers import BINS, Histogram
from qir.tensor import Array

Range = tuple[float, float]
Method = Callable[[Histogram, int, bool], Range]

_STEPS = 128


def minmax(histogram: Histogram, bits: int, signed: bool) -> Range:  # noqa: ARG001
    """The exact range."""
    return histogram.low, histogram.high


def moving_average(histogram: Histogram, bits: int, signed: bool) -> Range:  # noqa: ARG001
    """Exponential moving average of the batches' ranges, momentum 0.9 (Jacob et al., 2018, section 3.1)."""
    return histogram.average_low, histogram.average_high


def percentile(histogram: Histogram, bits: int, signed: bool, *, keep: float = 0.99999) -> Range:  # noqa: ARG001
    """The range that holds the fraction `keep` of the values, half of the rest cut at each end that has outliers."""
    share = np.cumsum(histogram.counts) / histogram.total
    edges = histogram.start + histogram.width * np.arange(1, share.size + 1)
    high = float(edges[np.searchsorted(share, keep)])
    low = float(edges[np.searchsorted(share, 1 - keep)] - histogram.width)
    return max(low, histogram.low), min(high, histogram.high)


def mse(histogram: Histogram, bits: int, signed: bool) -> Range:
    """The range of least mean squared quantization error.

    The error of a grid follows from sums over the bins below each border between two of its codes, so that a width of
    b bits costs 2**b look-ups, not a pass over the bins.
    """
    below = np.concatenate([np.zeros((1, 2)), np.cumsum(_moments(histogram), axis=0)])
    squares = float(histogram.counts @ histogram.centers**2)

    def error(low: Array, high: Array) -> Array:
        step, first, last = _codes(low, high, bits, signed)
        code = first + np.arange(int((last - first).max()))
        place = ((code + 0.5) * step - histogram.start) / histogram.width - 0.5
        counts, sums = below[np.clip(np.ceil(place), 0, BINS).astype(np.intp)].transpose(2, 0, 1)
        gained = np.where(code < last, 2 * sums - (2 * code + 1) * step * counts, 0).sum(axis=1, keepdims=True) * step
        top = last * step
        found: Array = squares + gained + top * (top * below[-1, 0] - 2 * below[-1, 1])
        return found[:, 0]

    return _search(histogram, signed, error)


def lp(histogram: Histogram, bits: int, signed: bool, *, power: float = 2.4) -> Range:
    """The range of least mean |error|^power (LAPQ, Nahshan et al., 2019, equation 4)."""
    values, counts = _filled(histogram)

    def error(low: Array, high: Array) -> Array:
        errors: Array = (np.abs(_quantized(values, low, high, bits, signed) - values) ** power) @ counts
        return errors

    return _search(histogram, signed, error)


def entropy(histogram: Histogram, bits: int, signed: bool) -> Range:
    """The range whose quantized distribution has the least Kullback-Leibler divergence from the clipped one.

    Migacz, 8-bit inference with TensorRT, 2017: values outside the range are counted into its last bins.
    """
    values, counts = _filled(histogram)

    def divergence(low: Array, high: Array) -> Array:
        clipped = np.clip(values, low, high)
        codes = _quantized(values, low, high, bits, signed)
        found = [_divergence(c, q, counts) for c, q in zip(clipped, codes, strict=True)]
        return np.asarray(found)

    return _search(histogram, signed, divergence)


def aciq(histogram: Histogram, bits: int, signed: bool) -> Range:  # noqa: ARG001
    """The analytic range for Gaussian or Laplacian values, whichever fits better (Banner et al., 2019, eqs. 5 and 6).

    Half-wave distributions (after ReLU) are clipped at the threshold of the symmetric distribution with one more bit.
    """
    values, counts = _filled(histogram)
    weight = counts / counts.sum()
    half_wave = histogram.low >= 0
    mean = 0.0 if half_wave else float(values @ weight)
    deviation = float(np.sqrt(((values - mean) ** 2) @ weight))
    scale = float(np.abs(values - mean) @ weight)
    gaussian = (
        abs(scale / deviation - np.sqrt(2 / np.pi)) < abs(scale / deviation - np.sqrt(0.5)) if deviation else True
    )
    width = bits + half_wave
    threshold = deviation * _gaussian_clip(width) if gaussian else scale * _laplace_clip(width)
    return max(mean - threshold, histogram.low), min(mean + threshold, histogram.high)


METHODS: dict[str, Method] = {
    "minmax": minmax,
    "moving-average": moving_average,
    "percentile": percentile,
    "mse": mse,
    "lp": lp,
    "entropy": entropy,
    "aciq": aciq,
}


def threshold(histogram: Histogram, method: str, bits: int, *, signed: bool) -> Range:
    """The clipping range of a width by a named method.

    Raises:
        QirError: the method is unknown, or the histogram has seen nothing.
    """
    if method not in METHODS:
        raise QirError(f"calibration method {method!r} is unknown; expected one of {', '.join(METHODS)}")
    if histogram.total == 0:
        raise QirError("calibration has seen no values: give calibration data")
    low, high = METHODS[method](histogram, bits, signed)
    return min(low, high), max(low, high)


def _filled(histogram: Histogram) -> tuple[Array, Array]:
    filled = histogram.counts > 0
    return histogram.centers[filled], histogram.counts[filled]


def _moments(histogram: Histogram) -> Array:
    """Number and sum of the values of every bin: float64 [BINS, 2]."""
    return np.stack([histogram.counts, histogram.counts * histogram.centers], axis=1)


def _codes(low: Array, high: Array, bits: int, signed: bool) -> tuple[Array, Array, Array]:
    """Step, smallest and largest code of the grids of the ranges [candidates, 1]; zero has the code 0."""
    if signed:
        top = max(2 ** (bits - 1) - 1, 1)
        whole = np.full_like(low, top)
        return np.maximum(np.maximum(-low, high), 1e-30) / top, -whole - (bits > 1), whole
    step = np.maximum(high - low, 1e-30) / (2**bits - 1)
    first = -np.rint(-low / step)
    return step, first, first + 2**bits - 1


def _quantized(values: Array, low: Array, high: Array, bits: int, signed: bool) -> Array:
    """`values` [bins] on the grids of the ranges [candidates, 1]: [candidates, bins]."""
    step, first, last = _codes(low, high, bits, signed)
    return np.asarray(np.clip(np.rint(values / step), first, last) * step)


def _search(histogram: Histogram, signed: bool, error: Callable[[Array, Array], Array]) -> Range:
    low, high = min(histogram.low, 0.0), max(histogram.high, 0.0)
    fractions = np.linspace(1 / _STEPS, 1, _STEPS)[:, None]
    if signed:
        largest = max(-low, high)
        best = float(fractions[np.argmin(error(-fractions * largest, fractions * largest)), 0]) * largest
        return -best, best
    if low == 0.0 or high == 0.0:
        best = float(fractions[np.argmin(error(fractions * low, fractions * high)), 0])
        return best * low, best * high
    start_low, start_high = low, high
    best = float(fractions[np.argmin(error(fractions * low, fractions * high)), 0])
    low, high = best * low, best * high
    for _ in range(2):
        low = float(fractions[np.argmin(error(fractions * start_low, np.full_like(fractions, high))), 0]) * start_low
        high = float(fractions[np.argmin(error(np.full_like(fractions, low), fractions * start_high)), 0]) * start_high
    return low, high


def _divergence(clipped: Array, quantized: Array, counts: Array) -> float:
    _, bins = np.unique(clipped, return_inverse=True)
    reference = np.bincount(bins, counts)
    _, codes = np.unique(quantized, return_inverse=True)
    mass = np.bincount(codes, counts)
    members = np.zeros(bins.max() + 1, np.int64)
    members[bins] = codes
    candidate = mass[members] / np.bincount(members)[members]
    p, q = reference / reference.sum(), candidate / candidate.sum()
    return float(np.sum(p * np.log(p / q)))


def _gaussian_clip(bits: int) -> float:
    from scipy.special import erfc

    thresholds = np.linspace(0.5, 8.0, 4000)
    clipped = (thresholds**2 + 1) * erfc(thresholds / np.sqrt(2)) - np.sqrt(2 / np.pi) * thresholds * np.exp(
        -(thresholds**2) / 2
    )
    return float(thresholds[np.argmin(clipped + thresholds**2 / (3 * 4.0**bits))])


def _laplace_clip(bits: int) -> float:
    thresholds = np.linspace(0.5, 16.0, 4000)
    return float(thresholds[np.argmin(2 * np.exp(-thresholds) + thresholds**2 / (3 * 4.0**bits))])
