"""Ternary weights (Li et al., TWN, 2016; AutoQNN section 3.1.1)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from qir.quantizers.parameters import Float, QuantParameters, Storage
from qir.quantizers.scales import bipolar_scale, zeros
from qir.quantizers.scheme import Scheme


@dataclass(frozen=True)
class Ternary(Scheme):
    """Levels {-a, 0, a}: a = mean of the magnitudes above the threshold t = 0.7 mean|w| (TWN equations 5 and 6).

    The stored range is (-t, a): its low end is minus the threshold, its high end the scale.
    """

    name: ClassVar[str] = "ternary"
    widths: ClassVar[tuple[int, ...]] = (2,)
    storage: ClassVar[Storage] = Storage.INTEGER
    signedness: ClassVar[frozenset[bool]] = frozenset({True})

    def _parameters(self, ranges: Float, bits: int, signed: bool, narrow: bool) -> QuantParameters:  # noqa: ARG002
        threshold, scale = np.maximum(-ranges[:, 0], 0), np.maximum(ranges[:, 1], 0)
        # Intervals are closed below: the next float32 above -t keeps x = -t at code -1, as its mirror image is.
        boundaries = np.stack([np.nextafter(-threshold, np.float32(np.inf)), threshold], axis=1)
        return QuantParameters(2, True, bipolar_scale(scale), zeros(len(ranges)), -1, 1, boundaries=boundaries)

    def _fit(self, rows: Float, bits: int, signed: bool, narrow: bool) -> Float:  # noqa: ARG002
        magnitude = np.abs(rows).astype(np.float64)
        threshold = 0.7 * magnitude.mean(axis=1, keepdims=True)
        above = magnitude > threshold
        scale = (magnitude * above).sum(axis=1) / np.maximum(above.sum(axis=1), 1)
        return np.stack([-threshold[:, 0], scale], axis=1).astype(np.float32)
