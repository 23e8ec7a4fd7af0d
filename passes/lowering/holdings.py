"""How the quantizers of a network are held by an export profile: element types, codes, what is emulated."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Literal

import numpy as np

from qir.backends.execution.saturation import CodeRange
from qir.errors import ExportError
from qir.passes.analysis.arithmetic.codes import BiasCodes, Codes
from qir.passes.analysis.arithmetic.network import NetworkArithmetic
from qir.passes.analysis.quantized_layers import QuantizedLayer
from qir.passes.lowering.profiles.profiles import Profile, Runtime
from qir.quantizers import QuantParameters
from qir.types import DType, code_range

Form = Literal["affine", "mid-rise", "levels"]
"""QuantizeLinear computes it · odd codes · a table of levels."""

FLOAT = DType.FLOAT32

UNSIGNED_SHIFT = 128
"""Zero point, and what is added to the codes, of int8 codes that are stored as uint8."""


@dataclass(frozen=True, eq=False)
class Holding:
    """How one quantizer is held.

    Attributes:
        container: element type of its codes; float32 = arithmetic on floats.
        form: how a value becomes a code.
        grid: scale, zero point and codes as the file has them; None for tables that are not multiples of a step and for
            widths per channel.
        codes: a weight's integer codes; None for activations and tables.
        emulation: what the profile could not express, empty when it is native.
    """

    container: DType
    form: Form
    grid: QuantParameters | None
    codes: Codes | None = None
    emulation: str = ""

    @property
    def integers(self) -> QuantParameters:
        """The grid of integers that the file has.

        Raises:
            ExportError: there is none: a table of levels, or a width per channel.
        """
        if self.grid is None:
            raise ExportError(f"a quantizer of form {self.form!r} has no one grid of integers in the file")
        return self.grid

    def unsigned(self) -> Holding:
        """Return the same values as uint8 codes around zero point 128, for codes that are int8."""
        grid = None if self.grid is None else _shifted_grid(self.grid)
        codes = None if self.codes is None else _shifted_codes(self.codes)
        return replace(self, container=DType.UINT8, grid=grid, codes=codes)

    def stored(self) -> CodeRange:
        """Return the 8-bit codes that can occur in the file."""
        if self.codes is not None:
            return CodeRange(
                self.container, int(self.codes.values.min(initial=0)), int(self.codes.values.max(initial=0))
            )
        if self.grid is None:
            return CodeRange(self.container, *code_range(8, signed=self.container is DType.INT8))
        return CodeRange(self.container, self.grid.low_code, self.grid.high_code)


@dataclass
class Legalization:
    """What `legalize` found out: the result lies in `context.reports["legalize"]`.

    Attributes:
        arithmetic: the record of the network's integers.
        profile: the profile.
        runtime: what the version of ONNX Runtime holds whose rules were asked for.
        holdings: by name of the quantizer.
        emulated: reasons, by name of the quantizer or node.
    """

    arithmetic: NetworkArithmetic
    profile: Profile
    runtime: Runtime
    holdings: dict[str, Holding] = field(default_factory=dict)
    emulated: dict[str, str] = field(default_factory=dict)

    def on_integers(self, layer: QuantizedLayer) -> bool:
        """Return whether both operands of a layer are held as integers times a scale."""
        holdings = (self.holdings[operand.name] for operand in (layer.data, layer.weight))
        return all(holding.grid is not None or holding.codes is not None for holding in holdings)

    def bias(self, layer: QuantizedLayer) -> BiasCodes | None:
        """Return a layer's constant bias in steps of its sums; None where its operands are not held as integers."""
        return self.arithmetic.layer(layer).bias if self.on_integers(layer) else None


def _shifted_grid(grid: QuantParameters) -> QuantParameters:
    """Return the same values with codes larger by `UNSIGNED_SHIFT`."""
    zero = grid.zero_point + np.int32(UNSIGNED_SHIFT)
    low, high = grid.low_code + UNSIGNED_SHIFT, grid.high_code + UNSIGNED_SHIFT
    return replace(grid, zero_point=zero, low_code=low, high_code=high)


def _shifted_codes(codes: Codes) -> Codes:
    """Return the same values with codes larger by `UNSIGNED_SHIFT`."""
    zero = codes.zero_point + np.int32(UNSIGNED_SHIFT)
    low, high = codes.low + UNSIGNED_SHIFT, codes.high + UNSIGNED_SHIFT
    return replace(codes, values=codes.values + UNSIGNED_SHIFT, zero_point=zero, low=low, high=high)
