"""Zoom quantization (AutoQNN section 3.1.1, ZoomQ)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from qir.quantizers.parameters import Float, QuantParameters, Storage
from qir.quantizers.scheme import Scheme
from qir.quantizers.tables.codebook import codebook


@dataclass(frozen=True)
class ZoomQ(Scheme):
    """Levels in the middle of 2**b equal cells: `a * clip(floor((x - low) / a), 0, 2**b - 1) + low + a / 2`.

    `a = (high - low) / 2**b`, low and high the extremes of the data. The offset is real, not a multiple of a: integer
    kernels and ONNX QuantizeLinear cannot express it, so the levels are stored.
    """

    name: ClassVar[str] = "zoomq"
    widths: ClassVar[tuple[int, ...]] = tuple(range(1, 9))
    storage: ClassVar[Storage] = Storage.CODEBOOK

    def _parameters(self, ranges: Float, bits: int, signed: bool, narrow: bool) -> QuantParameters:  # noqa: ARG002
        low = ranges[:, :1].astype(np.float64)
        cell = (ranges[:, 1:].astype(np.float64) - low) / (1 << bits)
        index = np.arange(1 << bits)
        return codebook(low + cell * (index + 0.5), bits, signed, low + cell * index[1:])
