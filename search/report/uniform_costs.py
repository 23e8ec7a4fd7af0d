"""What each node costs at uniform widths, next to each other."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from qir.backends.costs.tables.rows import NodeCost
    from qir.backends.costs.tables.table import CostTable
    from qir.passes.constraints.propagate_constraints import BitConstraints


@dataclass(frozen=True)
class UniformCosts:
    """Cycles node by node at uniform widths, and what bounds them; printed by rich, it is a table.

    Attributes:
        target: name of the hardware.
        columns: `input bits/weight bits` → costs of the nodes, in order.
    """

    target: str
    columns: Mapping[str, list[NodeCost]]

    @staticmethod
    def of(table: CostTable, constraints: BitConstraints, widths: Iterable[int]) -> UniformCosts:
        """Read the costs of the legal policies that are nearest to some widths.

        Raises:
            TargetError: a policy is not legal.
        """
        columns = {}
        for width in widths:
            costs = table.rows(constraints.uniform(width))
            weights = sorted({cost.weight_bits for cost in costs if cost.weight_bits is not None})
            columns[f"{width}/{weights[-1] if weights else width}"] = costs
        return UniformCosts(table.target, columns)

    def __rich__(self) -> Any:
        """Show the nodes in rows, the widths in columns, and the totals."""
        from rich.table import Table

        shown = Table(title=f"Latency node by node on {self.target}, cycles (what bounds it)")
        shown.add_column("node")
        shown.add_column("op")
        for label in self.columns:
            shown.add_column(label, justify="right")
        for row in zip(*self.columns.values(), strict=True):
            shown.add_row(row[0].node, row[0].op, *(f"{cost.cycles:,.0f} ({cost.bound_by})" for cost in row))
        shown.add_section()
        totals = (f"{sum(cost.cycles for cost in costs):,.0f}" for costs in self.columns.values())
        shown.add_row("total", "", *totals)
        return shown
