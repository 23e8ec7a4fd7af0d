"""Ranges of weights: per channel and width, by the error that quantization makes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np

from qir.errors import PassError
from qir.fake_quant import FakeQuant
from qir.granularity import PerBlock
from qir.passes.calibration.output_error import OutputError
from qir.quantizers import QuantParameters
from qir.quantizers.kernels import onto_affine_grid
from qir.tensor import Array

WEIGHT_METHODS = ("output", "output-centred", "mse", "minmax")
"""What weights are clipped by: error of the layer's output (also without its mean), error of the weight, nothing."""

_LOWEST_FRACTION = {2: 0.2, 3: 0.3, 4: 0.44, 5: 0.6, 6: 0.8, 7: 0.86}
"""Of a channel's full range, by width, 0.9 beyond: for about 1 % of the channels of LeNet, ResNet-20 and
EfficientNet-Lite0 a lower one was best."""
_LOWEST_OF_ALL = 0.2
"""Of the full range of a whole weight, whose largest value lies farther out."""
_STEP = 0.02
_WIDEST_BY_OUTPUT = 5
_BLOCK = 1 << 16
"""Elements that are quantized at a time, so that they stay in the cache."""


def weight_ranges(
    quantizer: FakeQuant,
    weight: Array,
    method: str,
    by_output: OutputError | None = None,
    *,
    channel_axis: int | None = None,
) -> Array:
    """(low, high) of every candidate width: float32 [widths, channels or 1, 2].

    Args:
        quantizer: the weight's.
        weight: float values.
        method: one of `WEIGHT_METHODS`.
        by_output: up to 5 bits the error is then that of the layer's output (dW H dWᵀ per channel, as MPQNNCO's
            second-order form), instead of that of the weight.
        channel_axis: axis of the output channels, that of the quantizer by default.

    Raises:
        PassError: the method is unknown.
    """
    if method not in WEIGHT_METHODS:
        raise PassError(f"calibrate: weights {method!r} is unknown; expected one of {', '.join(WEIGHT_METHODS)}")
    if isinstance(quantizer.granularity, PerBlock):
        by_output = channel_axis = None
    weight, axis = quantizer.granularity.rows(weight)
    rows = _rows(weight, axis if channel_axis is None else channel_axis)
    signed, narrow = quantizer.signed, quantizer.narrow
    found = []
    for bits in quantizer.widths:
        scheme = quantizer.scheme(bits)
        full = scheme.fit(weight, bits, signed, narrow, axis)
        if method == "minmax" or bits == 1 or scheme.name not in {"uniform", "uniform-asymmetric"}:
            found.append(full)
            continue
        lowest = _LOWEST_OF_ALL if len(full) < len(rows) else _LOWEST_FRACTION.get(bits, 0.9)
        measure = by_output if by_output is not None and bits <= _WIDEST_BY_OUTPUT else _weight_error
        grid = partial(scheme.parameters, bits=bits, signed=signed, narrow=narrow)
        found.append(_Candidates(rows, full, grid, measure).best(lowest))
    return np.stack(found)


def store_levels(quantizer: FakeQuant, values: Array) -> None:
    """Fit and store the levels of every candidate width whose scheme keeps levels (k-means, residual binaries).

    Args:
        quantizer: the quantizer.
        values: float values that levels are fitted to.
    """
    for bits in quantizer.widths:
        scheme = quantizer.scheme(bits)
        if not scheme.stores_levels:
            continue
        signed, narrow = quantizer.signed, quantizer.narrow
        rows, axis = quantizer.granularity.rows(values)
        fitted = scheme.fit_parameters(rows, bits, signed, narrow, axis)
        if fitted.levels is not None:
            quantizer.set_levels(bits, fitted.levels)


@dataclass(frozen=True)
class _Candidates:
    """How well fractions of a weight's full range do.

    Attributes:
        rows: weight [channels, elements].
        full: full ranges, float32 [channels or 1, 2].
        grid: parameters at ranges [candidates, 2].
        measure: errors [candidates, channels] of changes [candidates, channels, elements].
    """

    rows: Array
    full: Array
    grid: Callable[[Array], QuantParameters]
    measure: Callable[[Array], Array]

    def best(self, lowest: float) -> Array:
        """Return the range with the least error, of every channel for itself: float32 [channels or 1, 2].

        Weights that leave the cache are tried at every second step, and then one step to either side of the best: on
        LeNet's and ResNet-20's long rows ranges found so have 2 % more error, in 60 % of the time.
        """
        stride = 1 if self.rows.size <= _BLOCK else 2
        fractions = np.linspace(lowest, 1, round((1 - lowest) / _STEP) + 1)[::-1][::stride]
        fractions = np.repeat(fractions[:, None], len(self.full), axis=1)
        errors = self._errors(fractions)
        if stride > 1:
            centre = np.take_along_axis(fractions, errors.argmin(axis=0)[None], 0)
            neighbour = np.minimum(centre + np.array([[-_STEP], [_STEP]]), 1.0)
            fractions, errors = (
                np.concatenate([fractions, neighbour]),
                np.concatenate([errors, self._errors(neighbour)]),
            )
        chosen = np.take_along_axis(fractions, errors.argmin(axis=0)[None], 0)[0]
        return np.asarray(self.full * chosen[:, None], np.float32)

    def _errors(self, fractions: Array) -> Array:
        """Of fractions [candidates, channels or 1]: the same shape."""
        ranges = (self.full * fractions[:, :, None]).astype(np.float32)
        grid = self.grid(ranges.reshape(-1, 2))
        scale, zero_point = (part.reshape(*fractions.shape, 1) for part in (grid.scale, grid.zero_point))
        at_a_time = max(_BLOCK // self.rows.size, 1)
        change, found = np.empty((at_a_time, *self.rows.shape), np.float32), []
        for start in range(0, len(fractions), at_a_time):
            some = slice(start, start + at_a_time)
            made = change[: len(fractions[some])]
            _quantize(self.rows, scale[some], zero_point[some], (grid.low_code, grid.high_code), made)
            made -= self.rows
            found.append(self.measure(made))
        errors = np.concatenate(found)
        return errors if len(self.full) == len(self.rows) else errors.sum(axis=1, keepdims=True)


def _quantize(rows: Array, scale: Array, zero_point: Array, codes: tuple[int, int], out: Array) -> None:
    """Rows [channels, elements] on the grids [candidates, channels or 1, 1], block by block of rows."""
    channels = max(_BLOCK // rows.shape[1], 1)
    for start in range(0, len(rows), channels):
        some = slice(start, start + channels)
        own = some if scale.shape[1] > 1 else slice(None)
        onto_affine_grid(rows[some], scale[:, own], zero_point[:, own], codes, out[:, some])


def _weight_error(change: Array) -> Array:
    """Return the squared error of every row: [candidates, channels] of changes [candidates, channels, inputs]."""
    return np.asarray(np.einsum("fci,fci->fc", change, change))


def _rows(weight: Array, axis: int | None) -> Array:
    if axis is None:
        return weight.reshape(1, -1)
    return np.ascontiguousarray(np.moveaxis(weight, axis, 0)).reshape(weight.shape[axis], -1)
