"""From a histogram to the clipping range of a width: one function a calibration method.

Every method takes a `Histogram`, the width, and whether codes are signed, and returns (low, high) in the unit of the
values. `METHODS` maps the names of the pipeline option `calibrate{method=…}` to them.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from qir.errors import QirError
from qir.passes.calibration.observers import BINS, Histogram
from qir.tensor import Array

Range = tuple[float, float]
Method = Callable[[Histogram, int, bool], Range]

_STEPS = 128
_NOTHING = 1e-30


def minmax(histogram: Histogram, bits: int, signed: bool) -> Range:  # noqa: ARG001
    """Return the exact range."""
    return histogram.low, histogram.high


def moving_average(histogram: Histogram, bits: int, signed: bool) -> Range:  # noqa: ARG001
    """Exponential moving average of the batches' ranges, momentum 0.9 (Jacob et al., 2018, section 3.1)."""
    return histogram.average_low, histogram.average_high


def percentile(histogram: Histogram, bits: int, signed: bool, *, keep: float = 0.99999) -> Range:  # noqa: ARG001
    """Return the range that holds the fraction `keep` of the values: half of the rest is cut at each end.

    ONNX Runtime's percentile calibration has the same definition.
    """
    share = np.cumsum(histogram.counts) / histogram.total
    edges = histogram.start + histogram.width * np.arange(1, share.size + 1)
    cut = (1 - keep) / 2
    high = float(edges[np.searchsorted(share, 1 - cut)])
    low = float(edges[np.searchsorted(share, cut)] - histogram.width)
    return max(low, histogram.low), min(high, histogram.high)


def mse(histogram: Histogram, bits: int, signed: bool) -> Range:
    """Return the range of least mean squared quantization error.

    The error of a grid follows from sums over the bins below each border between two of its codes, so that a width of
    b bits costs 2**b look-ups, not a pass over the bins.
    """
    counts = _up_to(histogram.counts)
    sums = _up_to(histogram.counts * histogram.centers)
    squares = float(histogram.counts @ histogram.centers**2)

    def error(low: Array, high: Array) -> Array:
        step, first, last = _codes(low, high, bits, signed)
        bins, code = _borders(histogram, step, first, last)
        gained = step * (2 * sums[bins] - (2 * code + 1) * step * counts[bins])
        gained = np.where(code < last, gained, 0).sum(axis=1)
        top = (last * step)[:, 0]
        return np.asarray(squares + gained + top * (top * counts[-1] - 2 * sums[-1]))

    return _search(histogram, signed, error)


def lp(histogram: Histogram, bits: int, signed: bool, *, power: float = 2.4) -> Range:
    """Return the range of least mean |error|^power (LAPQ, Nahshan et al., 2019, equation 4)."""
    values, counts = _filled(histogram)

    def error(low: Array, high: Array) -> Array:
        errors: Array = (np.abs(_quantized(values, low, high, bits, signed) - values) ** power) @ counts
        return errors

    return _search(histogram, signed, error)


def entropy(histogram: Histogram, bits: int, signed: bool) -> Range:
    """Return the range whose quantized distribution has the least Kullback-Leibler divergence from the clipped one.

    Migacz, 8-bit inference with TensorRT, 2017: values outside the range count into the last bins of the reference,
    and not at all into the quantized distribution, which spreads the mass of a code evenly over its filled bins.
    Ranges start at 128 of 2048 bins there, at 1/16 of the whole here. Zeros (ReLU's) are exact on every grid: their bin
    counts as the fuller one next to it. ONNX Runtime's entropy calibration has, at its defaults, as many bins as codes
    and so one range to choose from, the whole one: its thresholds are those of `minmax` here.
    """
    counts = _without_spike(histogram)
    share = counts / counts.sum()
    shares, filled, information = _up_to(share), _up_to(share > 0), _up_to(_log_weighted(share, share))

    def divergence(low: Array, high: Array) -> Array:
        begin, end = _bins_of(histogram, low), _bins_of(histogram, high) + 1
        borders, _ = _borders(histogram, *_codes(low, high, bits, signed))
        edges = np.clip(np.concatenate([begin, borders, end], axis=1), begin, end)
        inside, bins = np.diff(shares[edges], axis=1), np.diff(filled[edges], axis=1)
        mass, clipped = inside.copy(), information[np.maximum(end - 1, begin + 1)] - information[begin + 1]
        for place, outside in ((begin, shares[begin]), (end - 1, 1 - shares[end])):
            clipped += _log_weighted(share[place] + outside, share[place] + outside)
            holder = (edges[:, :-1] <= place) & (place < edges[:, 1:])
            mass += holder * outside
            bins += holder & (share[place] == 0) & (outside > 0)
        total = inside.sum(axis=1, keepdims=True)
        spread = inside / np.maximum(total * bins, _NOTHING)
        found = clipped[:, 0] - _log_weighted(mass, np.maximum(spread, _NOTHING)).sum(axis=1)
        empty = (high < histogram.low) | (low > histogram.high) | (total == 0)
        return np.asarray(np.where(empty[:, 0], np.inf, found))

    return _search(histogram, signed, divergence, smallest=1 / 16)


def aciq(histogram: Histogram, bits: int, signed: bool) -> Range:  # noqa: ARG001
    """Return the analytic range for Gaussian or Laplacian values, whichever fits (Banner et al., 2019, eqs. 5 and 6).

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
    """Return the clipping range of a width by a named method.

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


def _up_to(bins: Array) -> Array:
    """Return sums over the bins below each border between bins: float64 [BINS + 1]."""
    return np.concatenate([[0.0], np.cumsum(bins, dtype=np.float64)])


def _log_weighted(weights: Array, values: Array) -> Array:
    """`weights * log(values)`, 0 where the value is not positive."""
    return np.asarray(weights * np.log(np.where(values > 0, values, 1.0)))


def _bins_below(histogram: Histogram, value: Array) -> Array:
    """Return how many bins have their centre below a value."""
    place = np.ceil((value - histogram.start) / histogram.width - 0.5)
    return np.asarray(np.clip(place, 0, BINS).astype(np.intp))


def _bins_of(histogram: Histogram, value: Array) -> Array:
    """Return the bin that each value falls into, the nearest one outside."""
    return np.asarray(np.clip((value - histogram.start) // histogram.width, 0, BINS - 1).astype(np.intp))


def _borders(histogram: Histogram, step: Array, first: Array, last: Array) -> tuple[Array, Array]:
    """Return how many bins lie below the border above each code but the last, and the codes.

    Shape [candidates, borders] each.
    """
    code = first + np.arange(int((last - first).max()))
    return np.where(code < last, _bins_below(histogram, (code + 0.5) * step), BINS), code


def _without_spike(histogram: Histogram) -> Array:
    """Return counts of the bins, the one that holds zero no fuller than its neighbours."""
    counts, place = histogram.counts.copy(), int(-histogram.start // histogram.width)
    if 0 <= place < BINS:
        neighbour = max(counts[max(place - 1, 0)] * (place > 0), counts[min(place + 1, BINS - 1)] * (place < BINS - 1))
        counts[place] = min(counts[place], max(neighbour, 1.0))
    return counts


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


def _search(
    histogram: Histogram, signed: bool, error: Callable[[Array, Array], Array], smallest: float = 1 / _STEPS
) -> Range:
    low, high = min(histogram.low, 0.0), max(histogram.high, 0.0)
    fractions = np.linspace(smallest, 1, _STEPS)[:, None]
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
