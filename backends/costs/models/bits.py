"""No hardware: bit operations and sizes alone, which follow from the network and its widths."""

from __future__ import annotations

from typing import ClassVar

from qir.backends.costs.layers.cost import Cost
from qir.backends.costs.layers.shape import ConvShape
from qir.backends.costs.layers.validation import Strict
from qir.backends.costs.models.base import CostModel


class BitsParameters(Strict):
    """There are none."""


class Bits(CostModel[BitsParameters]):
    """Counts multiply-accumulates x weight bits x activation bits (BOPs, HAWQ-V3) and knows no cycles."""

    kind: ClassVar[str] = "bits"
    parameters_type: ClassVar[type[Strict]] = BitsParameters
    knows_cycles: ClassVar[bool] = False
    notes: ClassVar[tuple[str, ...]] = (
        "no hardware is named (--target): costs are bit operations and bits of weights, not cycles",
    )

    def matrix_cost(self, shape: ConvShape, weight_bits: int, activation_bits: int) -> Cost:
        """Return bit operations of a layer."""
        operations = float(shape.macs * weight_bits * activation_bits)
        return Cost(cycles=0.0, compute_cycles=0.0, bit_operations=operations, bound_by="unknown")

    def stream_cost(self, elements: int, bits: int) -> Cost:  # noqa: ARG002
        """Nothing: traffic is hardware's."""
        return Cost(cycles=0.0, compute_cycles=0.0, bound_by="unknown")
