"""Systolic arrays: the closed forms of SCALE-Sim's compute cycles for three dataflows.

Samajdar et al., "A Systematic Methodology for Characterizing Scalability of DNN Accelerators using SCALE-Sim", ISPASS
2020. R rows, C columns, P output pixels, K products per output, N filters; each less one cycle:

- output stationary: ceil(P/R) ceil(N/C) (K + R + C - 2)
- weight stationary: ceil(K/R) ceil(N/C) (P + 2R + C - 2)
- input stationary: ceil(K/R) ceil(P/C) (N + 2R + C - 2)
"""

from __future__ import annotations

from math import ceil
from typing import ClassVar, Literal

from pydantic import Field

from qir.backends.costs.layers.cost import Cost
from qir.backends.costs.layers.shape import ConvShape
from qir.backends.costs.layers.validation import Strict
from qir.backends.costs.models.matrix_engine import MatrixEngine


class SystolicParameters(Strict):
    """Parameters of a systolic array.

    Attributes:
        rows: of the array.
        columns: of the array.
        dataflow: which operand stays in the array: `output`, `weight` or `input`.
        unit_bits: width of one multiplier's operands.
        packed: narrower operands share a multiplier: unit_bits // max(weight, activation bits) products a cycle.
        mac_pj: energy of one multiply-accumulate at the unit's width, in picojoules; narrower ones cost in proportion
            to the product of their widths when packed; absent = energy is unknown.
    """

    rows: int = Field(gt=0)
    columns: int = Field(gt=0)
    dataflow: Literal["output", "weight", "input"] = "weight"
    unit_bits: int = Field(default=8, gt=0)
    packed: bool = False
    mac_pj: float | None = Field(default=None, ge=0)


class Systolic(MatrixEngine[SystolicParameters]):
    """Fill, run and drain of each fold of the product onto the array; groups run one after the other."""

    kind: ClassVar[str] = "systolic"
    parameters_type: ClassVar[type[Strict]] = SystolicParameters
    energy_parameter: ClassVar[str] = "mac_pj"
    notes: ClassVar[tuple[str, ...]] = (
        "systolic: operands cross the outermost memory once; on-chip capacity is not modelled",
    )

    def matrix_cost(self, shape: ConvShape, weight_bits: int, activation_bits: int) -> Cost:
        """Return closed form of the dataflow, overlapped with the operands' transfers."""
        array = self.parameters
        packing = max(array.unit_bits // max(weight_bits, activation_bits), 1) if array.packed else 1
        pixels, taps, filters = shape.pixels, ceil(shape.taps / packing), shape.filters
        rows, columns = array.rows, array.columns
        if array.dataflow == "output":
            folds, steps = ceil(pixels / rows) * ceil(filters / columns), taps + rows + columns - 2
        elif array.dataflow == "weight":
            folds, steps = ceil(taps / rows) * ceil(filters / columns), pixels + 2 * rows + columns - 2
        else:
            folds, steps = ceil(taps / rows) * ceil(pixels / columns), filters + 2 * rows + columns - 2
        compute = float(shape.groups * (folds * steps - 1))
        share = weight_bits * activation_bits / array.unit_bits**2 if array.packed else 1.0
        return self.overlapped(shape, weight_bits, activation_bits, compute, shape.macs * self.core_pj * share)
