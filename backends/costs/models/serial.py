"""Stripes and Loom: operands enter bit by bit, one of them or both.

Judd et al., "Stripes: Bit-Serial Deep Neural Network Computing", MICRO 2016; Sharify et al., "Loom: Exploiting Weight
and Activation Precisions to Accelerate Convolutional Neural Networks", DAC 2018.
"""

from __future__ import annotations

from math import ceil
from typing import ClassVar, Literal

from pydantic import Field

from qir.backends.costs.layers.cost import Cost
from qir.backends.costs.layers.shape import ConvShape
from qir.backends.costs.layers.validation import Strict
from qir.backends.costs.models.matrix_engine import MatrixEngine


class SerialParameters(Strict):
    """Parameters of an array with serial operands.

    Attributes:
        windows: output pixels side by side.
        filters: filters side by side.
        lanes: products summed in one unit.
        serial: the operand that enters bit by bit: `activations` (Stripes), `weights`, or `both` (Loom).
        bit_pj: energy of one product for each bit step, in picojoules; absent = energy is unknown.
    """

    windows: int = Field(gt=0)
    filters: int = Field(gt=0)
    lanes: int = Field(gt=0)
    serial: Literal["activations", "weights", "both"]
    bit_pj: float | None = Field(default=None, ge=0)


class Serial(MatrixEngine[SerialParameters]):
    """Cycles = ceil(P / windows) ceil(N / filters) ceil(K / lanes) x bit steps."""

    kind: ClassVar[str] = "serial"
    parameters_type: ClassVar[type[Strict]] = SerialParameters
    energy_parameter: ClassVar[str] = "bit_pj"

    def matrix_cost(self, shape: ConvShape, weight_bits: int, activation_bits: int) -> Cost:
        """Bit steps are the serial operand's width; the product of both widths when both are serial."""
        unit = self.parameters
        steps = {"activations": activation_bits, "weights": weight_bits, "both": weight_bits * activation_bits}[
            unit.serial
        ]
        tiles = ceil(shape.pixels / unit.windows) * ceil(shape.filters / unit.filters) * ceil(shape.taps / unit.lanes)
        compute = float(shape.groups * tiles * steps)
        return self.overlapped(shape, weight_bits, activation_bits, compute, shape.macs * steps * self.core_pj)
