"""The quantizers of DoReFa-Net (Zhou et al., 2016)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from qir.quantizers.affine.binary import bipolar_fit, bipolar_parameters
from qir.quantizers.affine.uniform import affine_parameters
from qir.quantizers.parameters import SMALLEST_SCALE, Float, QuantParameters, Storage
from qir.quantizers.scales import largest_magnitude, zeros
from qir.quantizers.scheme import Scheme


@dataclass(frozen=True)
class DoReFa(Scheme):
    """Weights: `2 q(tanh(w) / (2 max|tanh(w)|) + 1/2) - 1`, q(r) = round((2**k - 1) r) / (2**k - 1) (equation 9).

    The levels are the odd multiples of 1 / (2**k - 1) in [-1, 1], whatever the size of the weights: a network without
    normalization after the layer must be retrained. The decision thresholds are taken back through tanh, so that
    quantizing needs comparisons only. The stored range is (-max|w|, max|w|). 1 bit: `mean|w| sign(w)` (equation 8).
    Activations: clipped to [0, 1] in 2**k - 1 steps (equation 11).
    """

    name: ClassVar[str] = "dorefa"
    widths: ClassVar[tuple[int, ...]] = tuple(range(1, 9))
    storage: ClassVar[Storage] = Storage.INTEGER

    def _parameters(self, ranges: Float, bits: int, signed: bool, narrow: bool) -> QuantParameters:  # noqa: ARG002
        if not signed:
            return affine_parameters(ranges, bits, low_code=0)
        if bits == 1:
            return bipolar_parameters(ranges)
        top = (1 << bits) - 1
        limit = np.tanh(np.maximum(largest_magnitude(ranges), SMALLEST_SCALE).astype(np.float64))
        cuts = limit[:, None] * np.arange(1 - top, top, 2) / top
        scale = np.full(len(ranges), np.float32(1.0) / np.float32(top), dtype=np.float32)
        return QuantParameters(
            bits, True, scale, zeros(len(ranges)), -top, top, 2, boundaries=np.arctanh(cuts).astype(np.float32)
        )

    def _fit(self, rows: Float, bits: int, signed: bool, narrow: bool) -> Float:  # noqa: ARG002
        if not signed:
            return np.tile(np.array([0.0, 1.0], dtype=np.float32), (len(rows), 1))
        if bits == 1:
            return bipolar_fit(rows)
        high = largest_magnitude(rows)
        return np.stack([-high, high], axis=1)
