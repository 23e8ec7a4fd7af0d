"""Ranges of weights: per channel and width, by the error that quantization makes."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np

from qir.errors import PassError
from qir.fake_quant import rows_of, scheme_of, set_levels
from qir.graph import Node
from qir.passes.gram_matrices import OutputError
from qir.quantizers import Scheme, get_scheme
from qir.tensor import Array

WEIGHT_METHODS = ("output", "output-centred", "mse", "minmax")
"""What weights are clipped by: error of the layer's output (also without its mean), error of the weight, nothing."""

_LOWEST_FRACTION = {2: 0.2, 3: 0.3, 4: 0.44, 5: 0.6, 6: 0.8, 7: 0.86}
"""Of the full range, by width, 0.9 beyond: for about 1 % of the channels of LeNet, ResNet-20 and EfficientNet-Lite0 a
lower one was best."""
_STEP = 0.02
_WIDEST_BY_OUTPUT = 5
_BLOCK = 1 << 16
"""Elements that are quantized at a time, so that they stay in the cache."""


def weight_ranges(
    node: Node, weight: Array, method: str, gram: Array | None = None, *, channel_axis: int | None = None
) -> Array:
    """(low, high) of every candidate width: float32 [widths, channels or 1, 2].

    Args:
        node: the weight's fake-quant node.
        weight: float values.
        method: one of `WEIGHT_METHODS`.
        gram: float32 [groups, inputs, inputs], mean of x xᵀ over the layer's inputs (im2col patches): up to 5 bits the
            error is then that of the layer's output, dW H dWᵀ per channel (as MPQNNCO's second-order form), instead of
            that of the weight.
        channel_axis: axis of the output channels, that of the node by default.

    Raises:
        PassError: the method is unknown.
    """
    if method not in WEIGHT_METHODS:
        raise PassError(f"calibrate: weights {method!r} is unknown; expected one of {', '.join(WEIGHT_METHODS)}")
    if node.attribute("block") is not None:
        gram = channel_axis = None
    weight, axis = rows_of(node, weight)
    rows = _rows(weight, axis if channel_axis is None else channel_axis)
    by_output = None if gram is None else OutputError.of(gram)
    signed, narrow = bool(node.attribute("signed", 1)), bool(node.attribute("narrow", 0))
    found = []
    for bits in node.attribute("widths"):
        scheme = get_scheme(scheme_of(node, bits))
        full = scheme.fit(weight, bits, signed, narrow, axis)
        if method == "minmax" or bits == 1 or scheme.name not in {"uniform", "uniform-asymmetric"}:
            found.append(full)
            continue
        lowest = _LOWEST_FRACTION.get(bits, 0.9)
        fractions = np.linspace(lowest, 1, round((1 - lowest) / _STEP) + 1)
        measure = by_output if by_output is not None and bits <= _WIDEST_BY_OUTPUT else _weight_error
        quantized = partial(_quantized, scheme=scheme, bits=bits, signed=signed, narrow=narrow)
        found.append(_least(rows, full, fractions, quantized, measure))
    return np.stack(found)


def store_levels(node: Node, values: Array) -> None:
    """Fit and store the levels of every candidate width whose scheme keeps levels (k-means, residual binaries).

    Args:
        node: fake-quant node.
        values: float values that levels are fitted to.
    """
    for bits in node.attribute("widths"):
        scheme = get_scheme(scheme_of(node, bits))
        if not scheme.stores_levels:
            continue
        signed, narrow = bool(node.attribute("signed", 1)), bool(node.attribute("narrow", 0))
        rows, axis = rows_of(node, values)
        fitted = scheme.fit_parameters(rows, bits, signed, narrow, axis)
        assert fitted.levels is not None  # noqa: S101 - what storing levels means
        set_levels(node, bits, fitted.levels)


def _least(
    rows: Array,
    full: Array,
    fractions: Array,
    quantized: Callable[[Array, Array], Array],
    measure: Callable[[Array], Array],
) -> Array:
    """The multiple of the full ranges [channels or 1, 2] with the least error, of every channel for itself."""
    best, least = full.copy(), np.full(len(full), np.inf, np.float32)
    at_a_time = max(_BLOCK // rows.size, 1)
    for start in range(0, len(fractions), at_a_time):
        ranges = (full * fractions[start : start + at_a_time, None, None]).astype(np.float32)
        tiled = np.broadcast_to(rows, (len(ranges), *rows.shape))
        change = quantized(tiled.reshape(len(ranges) * len(full), -1), ranges.reshape(-1, 2)).reshape(tiled.shape)
        change -= tiled
        errors = measure(change)
        if len(full) < len(rows):
            errors = errors.sum(axis=1, keepdims=True)
        first = errors.argmin(axis=0)[None]
        smallest = np.take_along_axis(errors, first, 0)[0]
        better = smallest < least
        least[better] = smallest[better]
        best[better] = np.take_along_axis(ranges, first[..., None], 0)[0][better]
    return best


def _quantized(rows: Array, ranges: Array, *, scheme: Scheme, bits: int, signed: bool, narrow: bool) -> Array:
    """Rows [channels, elements] on the grids of their ranges [channels, 2]."""
    return scheme.fake_quantize(rows, scheme.parameters(ranges, bits, signed, narrow), 0)


def _weight_error(change: Array) -> Array:
    """Squared error of every row: [candidates, channels] of changes [candidates, channels, inputs]."""
    return np.asarray(np.einsum("fci,fci->fc", change, change))


def _rows(weight: Array, axis: int | None) -> Array:
    if axis is None:
        return weight.reshape(1, -1)
    return np.ascontiguousarray(np.moveaxis(weight, axis, 0)).reshape(weight.shape[axis], -1)
