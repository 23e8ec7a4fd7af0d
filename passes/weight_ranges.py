"""Ranges of weights: per channel and width, by the error that quantization makes."""

from __future__ import annotations

import numpy as np

from qir.errors import PassError
from qir.fake_quant import scheme_of, set_levels
from qir.graph import Node
from qir.quantizers import get_scheme
from qir.tensor import Array

WEIGHT_METHODS = ("output", "output-centred", "mse", "minmax")
"""What weights are clipped by: error of the layer's output (also without its mean), error of the weight, nothing."""

_FRACTIONS = np.linspace(0.3, 1.0, 36)
_WIDEST_BY_OUTPUT = 5


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
    axis = node.attribute("axis")
    rows = _rows(weight, axis if channel_axis is None else channel_axis)
    found = []
    for bits in node.attribute("widths"):
        scheme = get_scheme(scheme_of(node, bits))
        signed, narrow = bool(node.attribute("signed", 1)), bool(node.attribute("narrow", 0))
        full = scheme.fit(weight, bits, signed, narrow, axis)
        if method == "minmax" or bits == 1 or scheme.name not in {"uniform", "uniform-asymmetric"}:
            found.append(full)
            continue
        best, least = full.copy(), np.full(len(full), np.inf)
        for fraction in _FRACTIONS:
            ranges = (full * fraction).astype(np.float32)
            parameters = scheme.parameters(ranges, bits, signed, narrow)
            difference = scheme.fake_quantize(rows, parameters, 0 if axis is not None else None) - rows
            error = _error(difference, gram if bits <= _WIDEST_BY_OUTPUT else None)
            if axis is None:
                error = error.sum(keepdims=True)
            better = error < least
            least = np.where(better, error, least)
            best[better] = ranges[better]
        found.append(best)
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
        fitted = scheme.fit_parameters(
            values, bits, bool(node.attribute("signed", 1)), bool(node.attribute("narrow", 0)), node.attribute("axis")
        )
        assert fitted.levels is not None  # noqa: S101 - what storing levels means
        set_levels(node, bits, fitted.levels)


def _rows(weight: Array, axis: int | None) -> Array:
    if axis is None:
        return weight.reshape(1, -1)
    return np.moveaxis(weight, axis, 0).reshape(weight.shape[axis], -1)


def _error(difference: Array, gram: Array | None) -> Array:
    """Squared error of every row of [channels, inputs], at the layer's output when its inputs' moments are given."""
    if gram is None:
        return np.asarray((difference**2).sum(axis=1))
    groups = difference.reshape(len(gram), -1, gram.shape[1])
    return np.asarray(((groups @ gram) * groups).sum(axis=2).reshape(-1))
