"""A target tried on a network: what it costs, what it leaves unknown, and what a key that is left out adds."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from qir.backends.costs.assumed import FUSED_OPS
from qir.backends.costs.building.builder import cost_table
from qir.backends.costs.tables.table import CostTable
from qir.backends.costs.target import Target
from qir.errors import TargetError
from qir.module import Module


@dataclass(frozen=True)
class Checked:
    """What a target says of a network.

    Attributes:
        cycles: "activation/weight bits" → cycles of the nodes whose cost is known, widest first.
        unknown: node of unknown cost → why.
        charged: share that activations after layers add to the widest policy's cycles, because the file names no
            `fused_ops`; 0 where it does.
        notes: what the cost model leaves out.
    """

    cycles: Mapping[str, float]
    unknown: Mapping[str, str]
    charged: float
    notes: tuple[str, ...]

    def lines(self) -> list[str]:
        """Return the figures in words."""
        found = [f"{widths} bits: {cycles:,.0f} cycles" for widths, cycles in self.cycles.items()]
        found += [f"unknown cost: {node}: {reason}" for node, reason in self.unknown.items()]
        if self.charged:
            found.append(
                f"without fused_ops, activations add {self.charged:.0%} to the cycles: give "
                f'"fused_ops": ["{FUSED_OPS[0]}", …] if the hardware computes them on the way out of a layer, else []'
            )
        return found + [f"left out by the cost model: {note}" for note in self.notes]


def checked(target: Target, module: Module) -> Checked:
    """Cost a network on a target at every pair of equal ranks, widest first.

    Args:
        target: the hardware.
        module: float network, simplified.

    Raises:
        TargetError: the cost model cannot cost a layer of it.
    """
    table = cost_table(module, target)
    pairs = sorted(target.operand_rules().legal_pairs(), reverse=True)
    cycles = {f"{a}/{w}": _cycles(table, a, w) for a, w in pairs}
    known = {widths: count for widths, count in cycles.items() if count is not None}
    charged = 0.0
    if "fused_ops" not in target.model_fields_set and known:
        fused = cost_table(module, target.model_copy(update={"fused_ops": FUSED_OPS}))
        before = _cycles(fused, *pairs[0])
        charged = (next(iter(known.values())) / before - 1) if before else 0.0
    return Checked(known, table.reasons, charged, target.cost_model().notes)


def _cycles(table: CostTable, activation_bits: int, weight_bits: int) -> float | None:
    try:
        policy = table.uniform(activation_bits, weight_bits)
        found = float(table.cost([policy], unknown="ignore")[0])
    except TargetError:
        return None
    return found if found < float("inf") else None
