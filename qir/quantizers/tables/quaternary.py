"""Quaternary weights (Gong et al., VecQ, 2020; AutoQNN section 3.1.1)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from qir.quantizers.affine.mid_rise import deviation, mid_rise_parameters, step_ranges
from qir.quantizers.parameters import Float, QuantParameters, Storage
from qir.quantizers.scheme import Scheme


@dataclass(frozen=True)
class Quaternary(Scheme):
    """Levels a * {-1.5, -0.5, 0.5, 1.5} with a = the standard deviation."""

    name: ClassVar[str] = "quaternary"
    widths: ClassVar[tuple[int, ...]] = (2,)
    storage: ClassVar[Storage] = Storage.INTEGER
    signedness: ClassVar[frozenset[bool]] = frozenset({True})

    def _parameters(self, ranges: Float, bits: int, signed: bool, narrow: bool) -> QuantParameters:  # noqa: ARG002
        return mid_rise_parameters(ranges, bits)

    def _fit(self, rows: Float, bits: int, signed: bool, narrow: bool) -> Float:  # noqa: ARG002
        return step_ranges(deviation(rows), bits)
