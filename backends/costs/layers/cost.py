"""What one node costs on a target."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
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
    """Return the name of the part with the most cycles; compute where it ties."""
    parts = {"compute": compute_cycles, **memory_cycles}
    return max(parts, key=lambda name: parts[name])


def combined(costs: Iterable[Cost], copies: float = 1.0) -> Cost:
    """Return the sum of costs that follow each other, `copies` times; bound by what bounds the longest of them."""
    parts = list(costs)
    longest = max(parts, key=lambda cost: cost.cycles)
    return Cost(
        cycles=copies * sum(cost.cycles for cost in parts),
        compute_cycles=copies * sum(cost.compute_cycles for cost in parts),
        memory_cycles=_sum((cost.memory_cycles for cost in parts), copies),
        bytes_moved=_sum((cost.bytes_moved for cost in parts), copies),
        energy=_sum((cost.energy for cost in parts), copies),
        bit_operations=copies * sum(cost.bit_operations for cost in parts),
        bound_by=longest.bound_by,
    )


def _sum(parts: Iterable[Mapping[str, float]], copies: float) -> dict[str, float]:
    total: dict[str, float] = {}
    for part in parts:
        for name, value in part.items():
            total[name] = total.get(name, 0.0) + copies * value
    return total
