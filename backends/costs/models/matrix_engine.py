"""What the simpler models share: each operand crosses the outermost memory once, next to the arithmetic."""

from __future__ import annotations

from typing import Generic, TypeVar

from qir.backends.costs.layers.cost import Cost, slowest
from qir.backends.costs.layers.shape import ConvShape
from qir.backends.costs.layers.validation import Strict
from qir.backends.costs.models.base import CostModel

P = TypeVar("P", bound=Strict)


class MatrixEngine(CostModel[P], Generic[P]):
    """A model with compute cycles of its own, whose transfers overlap with them."""

    def overlapped(
        self,
        shape: ConvShape,
        weight_bits: int,
        activation_bits: int,
        compute: float,
        core_pj: float,
        launch: float = 0.0,
    ) -> Cost:
        """Return the cost where compute and the streams of weights and inputs run side by side.

        Args:
            shape: the layer.
            weight_bits: width of the weights; stored at the target's storage width.
            activation_bits: width of the input; stored at the target's storage width.
            compute: cycles of the arithmetic units.
            core_pj: energy of the arithmetic, in picojoules.
            launch: cycles before the layer starts.
        """
        memory = self.target.outermost_memory
        bits = {
            "weights": shape.weights * self.target.padding.storage_bits(weight_bits),
            "inputs": shape.inputs * self.target.padding.storage_bits(activation_bits),
        }
        moved = sum(bits.values())
        streams = {f"{memory.name}.{name}": count / memory.bits_per_cycle for name, count in bits.items()}
        transfers = moved / memory.bits_per_cycle
        return Cost(
            cycles=max(compute, transfers) + launch,
            compute_cycles=compute,
            memory_cycles=streams,
            bytes_moved={memory.name: moved / 8},
            energy=self.energies({memory.name: moved}, core_pj),
            bit_operations=float(shape.macs * weight_bits * activation_bits),
            bound_by="compute" if compute >= transfers else slowest(0.0, streams),
        )

    def output_cost(self, elements: int, bits: int) -> Cost:
        """Return the cost of writing the result through the outermost memory, after the arithmetic."""
        return self.stream_cost(elements, self.target.padding.storage_bits(bits))
