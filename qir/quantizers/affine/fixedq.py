"""Fixed point (Chen et al., T-DLA, 2019; AutoQNN section 3.1.1, FixedQ)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from qir.quantizers.affine.uniform import signed_codes
from qir.quantizers.parameters import Float, QuantParameters, Storage
from qir.quantizers.scales import floor_log2, largest_magnitude, power_of_two, zeros
from qir.quantizers.scheme import Scheme


@dataclass(frozen=True)
class FixedQ(Scheme):
    """Integers times `2**p`, p = floor(log2(max|x|)) - (b - 2), saturating; unsigned: - (b - 1).

    Ties round to even as everywhere in qir (the paper rounds them up).
    """

    name: ClassVar[str] = "fixedq"
    widths: ClassVar[tuple[int, ...]] = tuple(range(2, 9))
    storage: ClassVar[Storage] = Storage.INTEGER

    def _parameters(self, ranges: Float, bits: int, signed: bool, narrow: bool) -> QuantParameters:
        magnitude = largest_magnitude(ranges) if signed else np.maximum(ranges[:, 1], 0)
        scale = power_of_two(floor_log2(magnitude) - np.float32(bits - 2 if signed else bits - 1))
        low, high = signed_codes(bits, narrow) if signed else (0, (1 << bits) - 1)
        return QuantParameters(bits, signed, scale, zeros(len(ranges)), low, high)
