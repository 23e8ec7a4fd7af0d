"""What one node costs on a target."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Cost:
    """The cost of one node at one pair of widths.

    Attributes:
        cycles: total, with compute and memory overlapped as the model says.
        compute_cycles: cycles of the arithmetic units alone.
        memory_cycles: cycles of each stream through each memory alone, for example `dram.weights`.
        bytes_moved: bytes read from and written to each memory.
        energy: picojoules of each part: `core` and every memory.
        bit_operations: multiply-accumulates x weight bits x activation bits (BOPs, HAWQ-V3).
        bound_by: the part with the most cycles: `compute` or a stream of `memory_cycles`.
    """

    cycles: float
    compute_cycles: float
    memory_cycles: Mapping[str, float] = field(default_factory=dict)
    bytes_moved: Mapping[str, float] = field(default_factory=dict)
    energy: Mapping[str, float] = field(default_factory=dict)
    bit_operations: float = 0.0
    bound_by: str = "compute"

    @property
    def energy_pj(self) -> float:
        """Energy of all parts together, in picojoules."""
        return sum(self.energy.values())

    @property
    def total_bytes(self) -> float:
        """Bytes moved through all memories together."""
        return sum(self.bytes_moved.values())


def slowest(compute_cycles: float, memory_cycles: Mapping[str, float]) -> str:
    """Name of the part with the most cycles; compute where it ties."""
    parts = {"compute": compute_cycles, **memory_cycles}
    return max(parts, key=lambda name: parts[name])
