"""Binary quantization (Rastegari et al., XNOR-Net, 2016; seed of AutoQNN section 3.1.1)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from qir.quantizers.parameters import Float, QuantParameters, Storage
from qir.quantizers.scales import bipolar_scale, integer_scale, largest_magnitude, zeros
from qir.quantizers.scheme import Scheme


def bipolar_parameters(ranges: Float) -> QuantParameters:
    """Return codes {-1, +1} times the larger end of the range; a value of zero maps to +1."""
    return QuantParameters(1, True, bipolar_scale(largest_magnitude(ranges)), zeros(len(ranges)), -1, 1, code_step=2)


def bipolar_fit(rows: Float) -> Float:
    """Return the range (-s, +s) with s = mean |w|, the scale of least squared error."""
    scale = np.abs(rows).mean(axis=1, dtype=np.float64).astype(np.float32)
    return np.stack([-scale, scale], axis=1)


@dataclass(frozen=True)
class Binary(Scheme):
    """Signed: `mean|w| * sign(w)`, sign(0) = +1. Unsigned: codes {0, 1}, the larger end of the range times the code.

    Source: AutoQNN (Gong et al.), section 3.1.1, Binary. The unsigned grid (activations after ReLU) is fitted to the
    mean of the values above half the mean, an addition of this project: the paper has no binary activations.
    """

    name: ClassVar[str] = "binary"
    widths: ClassVar[tuple[int, ...]] = (1,)
    storage: ClassVar[Storage] = Storage.INTEGER

    def _parameters(self, ranges: Float, bits: int, signed: bool, narrow: bool) -> QuantParameters:  # noqa: ARG002
        if signed:
            return bipolar_parameters(ranges)
        return QuantParameters(1, False, integer_scale(np.maximum(ranges[:, 1], 0), 1), zeros(len(ranges)), 0, 1)

    def _fit(self, rows: Float, bits: int, signed: bool, narrow: bool) -> Float:  # noqa: ARG002
        if signed:
            return bipolar_fit(rows)
        positive = np.maximum(rows, 0).astype(np.float64)
        above = positive > positive.mean(axis=1, keepdims=True) / 2
        mean = (positive * above).sum(axis=1) / np.maximum(above.sum(axis=1), 1)
        return np.stack([np.zeros_like(mean), mean], axis=1).astype(np.float32)
