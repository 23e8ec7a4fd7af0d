"""Roofline with packing: the slower of arithmetic at its peak rate and memory at its bandwidth.

Williams, Waterman, Patterson, "Roofline: An Insightful Visual Performance Model for Multicore Architectures", CACM
2009.
"""

from __future__ import annotations

from math import ceil
from typing import ClassVar

from pydantic import Field, field_validator

from qir.backends.costs.layers.cost import Cost
from qir.backends.costs.layers.shape import ConvShape
from qir.backends.costs.layers.validation import Strict
from qir.backends.costs.models.matrix_engine import MatrixEngine


class RooflineParameters(Strict):
    """Parameters of a roofline.

    Attributes:
        macs_per_cycle: peak rate at the width 8.
        packing: width → how many times faster than the peak rate products of at most this width run; the wider operand
            counts. Widths beyond the largest key run at that key's rate scaled down by the ratio of widths.
        input_multiple: input channels of a group are padded to a multiple of this.
        output_multiple: output channels of a group are padded to a multiple of this.
        efficiency: share of the peak rate that is reached.
        launch_cycles: cycles before a layer starts.
        mac_pj: energy of one 8-bit multiply-accumulate, in picojoules; others in proportion to the product of widths;
            absent = energy is unknown.
    """

    macs_per_cycle: float = Field(gt=0)
    packing: dict[int, float] = Field(default_factory=lambda: {8: 1.0}, min_length=1)
    input_multiple: int = Field(default=1, gt=0)
    output_multiple: int = Field(default=1, gt=0)
    efficiency: float = Field(default=1.0, gt=0, le=1)
    launch_cycles: float = Field(default=0.0, ge=0)
    mac_pj: float | None = Field(default=None, ge=0)

    @field_validator("packing")
    @classmethod
    def _positive(cls, packing: dict[int, float]) -> dict[int, float]:
        if any(width < 1 or rate <= 0 for width, rate in packing.items()):
            raise ValueError("expected positive widths and rates")
        return packing


class Roofline(MatrixEngine[RooflineParameters]):
    """Compute at the peak rate of the wider operand, overlapped with the operands' transfers."""

    kind: ClassVar[str] = "roofline"
    parameters_type: ClassVar[type[Strict]] = RooflineParameters
    energy_parameter: ClassVar[str] = "mac_pj"

    def matrix_cost(self, shape: ConvShape, weight_bits: int, activation_bits: int) -> Cost:
        """Return padded multiply-accumulates over the reached rate, plus the launch."""
        unit = self.parameters
        spatial_taps = shape.kernel[0] * shape.kernel[1]
        inputs = shape.in_channels // shape.groups
        if shape.depthwise:
            padded = shape.pixels * spatial_taps * _multiple(shape.out_channels, unit.output_multiple)
        else:
            channels = _multiple(inputs, unit.input_multiple) * _multiple(shape.filters, unit.output_multiple)
            padded = shape.pixels * spatial_taps * channels * shape.groups
        rate = unit.macs_per_cycle * unit.efficiency * self._packing(max(weight_bits, activation_bits))
        core = shape.macs * self.core_pj * weight_bits * activation_bits / 64
        return self.overlapped(shape, weight_bits, activation_bits, padded / rate, core, unit.launch_cycles)

    def _packing(self, bits: int) -> float:
        widths = sorted(self.parameters.packing)
        width = next((width for width in widths if width >= bits), None)
        return (
            self.parameters.packing[widths[-1]] * widths[-1] / bits if width is None else self.parameters.packing[width]
        )


def _multiple(channels: int, unit: int) -> int:
    return ceil(channels / unit) * unit
