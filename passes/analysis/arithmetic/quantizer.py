"""What one quantizer makes of its tensor: its grid, the integers that its values are, and the codes of a weight."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

from qir.errors import ExportError
from qir.fake_quant import FakeQuant
from qir.passes.analysis.arithmetic.codes import Codes
from qir.quantizers import QuantParameters
from qir.quantizers.channels import quantize_channels
from qir.quantizers.multiples import integer_levels
from qir.tensor import Array


@dataclass(frozen=True, eq=False)
class QuantizerArithmetic:
    """The arithmetic of a calibrated quantizer at its chosen width; each fact is computed when it is first read.

    Attributes:
        quantizer: the quantizer.
    """

    quantizer: FakeQuant

    @cached_property
    def grid(self) -> QuantParameters:
        """The grid; raises `QirError` as `FakeQuant.grid`, with a width per channel too."""
        return self.quantizer.grid()

    @cached_property
    def multiples(self) -> tuple[npt.NDArray[np.int32], QuantParameters] | None:
        """A table's levels as integers times a step: the integers [codes], and the grid without levels.

        None where the grid has no table, or its levels are not multiples of a step.
        """
        return None if self.grid.levels is None else integer_levels(self.grid)

    @cached_property
    def integers(self) -> QuantParameters | None:
        """The grid of the integers that the values are: a table's multiples, else the grid itself.

        None with a width per channel, and for levels that are not multiples of a step.
        """
        if not isinstance(self.quantizer.bits, int):
            return None
        if self.grid.levels is None:
            return self.grid
        return None if self.multiples is None else self.multiples[1]

    @property
    def scale(self) -> npt.NDArray[np.float32] | None:
        """What one integer is worth: float32 [channels or 1]; None where the values are not integers times a scale."""
        if not isinstance(self.quantizer.bits, int) and self.quantizer.is_weight:
            return None if self.codes is None else self.codes.scale
        return None if self.integers is None else self.integers.scale

    @cached_property
    def weight(self) -> npt.NDArray[np.float32]:
        """The float values of a weight.

        Raises:
            ExportError: they are computed.
        """
        constant = self.quantizer.source.constant
        if constant is None:
            raise ExportError(f"quantizer {self.quantizer.name!r}: its weight is not a constant: run fold-constants")
        return constant.numpy().astype(np.float32)

    @cached_property
    def stored(self) -> Array:
        """The codes of a weight on its grid, places in a table's: int32, the weight's shape; 1 bit has -1 and +1."""
        return self.quantizer.codes(self.weight)

    @cached_property
    def codes(self) -> Codes | None:
        """A weight as integers times a scale per channel; None where its levels are not multiples of a step.

        Widths per channel become one tensor of codes, pruned channels zeros.
        """
        bits, axis = self.quantizer.bits, self.quantizer.granularity.axis
        if not isinstance(bits, int) and axis is not None:
            grids = self.quantizer.grids()
            if not all(grid.has_integer_codes for grid in grids.values()):
                return None
            codes, scale, zero = quantize_channels(self.weight, grids, bits, axis)
            low = min((grid.low_code for grid in grids.values()), default=0)
            high = max((grid.high_code for grid in grids.values()), default=0)
            return Codes(codes, scale, zero, low, high)
        if self.integers is None:
            return None
        values = self.stored if self.multiples is None else self.multiples[0][self.stored - self.grid.low_code]
        grid = self.integers
        return Codes(values, grid.scale, grid.zero_point, grid.low_code, grid.high_code)
