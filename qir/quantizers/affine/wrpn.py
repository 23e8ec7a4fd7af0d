"""The quantizer of WRPN (Mishra et al., 2018) as ReLeQ uses it (seed of ReLeQ, section 4.2, equation 1)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from qir.quantizers.affine.uniform import affine_parameters, symmetric_parameters
from qir.quantizers.parameters import Float, QuantParameters, Storage
from qir.quantizers.scales import largest_magnitude
from qir.quantizers.scheme import Scheme


@dataclass(frozen=True)
class Wrpn(Scheme):
    """Mid-tread: `round((2**(k-1) - 1) w) / (2**(k-1) - 1)` of weights scaled to (-1, 1), one bit is the sign.

    The source does not say how weights are scaled: here by their largest magnitude, and back. Activations are clipped
    to (0, 1) in 2**k - 1 steps.
    """

    name: ClassVar[str] = "wrpn"
    widths: ClassVar[tuple[int, ...]] = tuple(range(2, 9))
    storage: ClassVar[Storage] = Storage.INTEGER

    def _parameters(self, ranges: Float, bits: int, signed: bool, narrow: bool) -> QuantParameters:  # noqa: ARG002
        return (
            symmetric_parameters(ranges, bits, narrow=True) if signed else affine_parameters(ranges, bits, low_code=0)
        )

    def _fit(self, rows: Float, bits: int, signed: bool, narrow: bool) -> Float:  # noqa: ARG002
        high = largest_magnitude(rows) if signed else np.ones(len(rows), dtype=np.float32)
        return np.stack([-high if signed else np.zeros_like(high), high], axis=1)
