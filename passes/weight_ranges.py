"""Ranges of weights: per channel and width, by the error that quantization makes."""

from __future__ import annotations

import numpy as np

from qir.fake_quant import scheme_of
from qir.graph import Node
from qir.quantizers import get_scheme
from qir.tensor import Array

_FRACTIONS = np.linspace(0.3, 1.0, 36)


def weight_ranges(node: Node, weight: Array, method: str, gram: Array | None = None) -> Array:
    """(low, high) of every candidate width: float32 [widths, channels or 1, 2].

    Args:
        node: the weight's fake-quant node.
        weight: float values.
        method: `minmax`, or anything else for the range of least error.
        gram: float32 [inputs, inputs], mean of x xᵀ over the layer's inputs (im2col patches): the error is then that of
            the layer's output, dWᵀ H dW per channel (as MPQNNCO's second-order form), instead of that of the weight.
    """
    axis = node.attribute("axis")
    rows = _rows(weight, axis)
    found = []
    for bits in node.attribute("widths"):
        scheme = get_scheme(scheme_of(node, bits))
        signed, narrow = bool(node.attribute("signed", 1)), bool(node.attribute("narrow", 0))
        full = scheme.fit(weight, bits, signed, narrow, axis)
        if method == "minmax" or bits == 1 or scheme.name not in {"uniform", "uniform-asymmetric"}:
            found.append(full)
            continue
        best, least = full.copy(), np.full(len(rows), np.inf)
        for fraction in _FRACTIONS:
            ranges = (full * fraction).astype(np.float32)
            parameters = scheme.parameters(ranges, bits, signed, narrow)
            error = _error(scheme.fake_quantize(rows, parameters, 0 if axis is not None else None) - rows, gram)
            if axis is None:
                error = np.full(len(rows), error.sum())
            better = error < least
            least = np.where(better, error, least)
            best[better if axis is not None else slice(None)] = (
                ranges[better] if axis is not None else (ranges if better.any() else best)
            )
        found.append(best)
    return np.stack(found)


def _rows(weight: Array, axis: int | None) -> Array:
    if axis is None:
        return weight.reshape(1, -1)
    return np.moveaxis(weight, axis, 0).reshape(weight.shape[axis], -1)


def _error(difference: Array, gram: Array | None) -> Array:
    if gram is None or gram.shape[0] != difference.shape[1]:
        return np.asarray((difference**2).sum(axis=1))
    return np.asarray(((difference @ gram) * difference).sum(axis=1))
