"""What is printed of costs: the table of a network, explanations, a referee's cycles, a fit's residuals."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from qir.errors import TargetError

if TYPE_CHECKING:
    from qir.backends.costs.fitting import FitResult
    from qir.backends.costs.tables.rows import NodeCost
    from qir.backends.costs.tables.table import CostTable
    from qir.backends.costs.target import Target
    from qir.backends.vela.referee import Compared
    from qir.policy import Bits
    from qir.support.terminal import Terminal


def print_lines(console: Terminal, lines: list[str]) -> None:
    """Print lines."""
    for line in lines:
        console.print(line, soft_wrap=True)


def print_table(
    console: Terminal, table: CostTable, target: Target, policies: Mapping[str, Mapping[str, Bits]]
) -> None:
    """Cycles of each node at each policy and what bounds it, then totals, notes and what is unknown.

    Without hardware they are bit operations.
    """
    from rich.table import Table

    from qir.backends.costs.tables.rows import reasons_text

    note, model = " (illustrative)" if target.illustrative else "", target.cost_model()
    counted = "cycles, activation/weight bits (what bounds the node)"
    if not model.knows_cycles:
        counted = "bit operations, activation/weight bits"
    shown = Table(title=f"{target.name}{note}: {counted}")
    shown.add_column("node", overflow="fold")
    shown.add_column("op", overflow="fold")
    legal = {}
    for name, bits in policies.items():
        try:
            legal[name] = table.rows(bits)
        except TargetError as error:
            if len(policies) == 1:
                raise
            print_lines(console, [f"{name}: {error}"])
    for name in legal:
        shown.add_column(name, justify="right", overflow="fold")
    for cells in zip(*legal.values(), strict=True):
        if not (model.knows_cycles or cells[0].cost.bit_operations):
            continue
        shown.add_row(cells[0].node, cells[0].op, *(_cell(cell, in_cycles=model.knows_cycles) for cell in cells))
    shown.add_section()
    for label, values in totals(table, target, [policies[name] for name in legal]).items():
        texts = [f"{value:,.4f}" if label == "ms" else f"{value:,.1f}" for value in values]
        shown.add_row(f"{label} (known nodes)" if table.unknown else label, "", *texts)
    console.print(shown)
    print_lines(console, [f"note: {line}" for line in (*model.notes, *table.facts.notes)])
    if table.unknown:
        unknown = reasons_text(table.reasons, "{names}", len(table.reasons))
        print_lines(console, [f"unknown cost, not in the totals: {unknown}"])


def _cell(cell: NodeCost, *, in_cycles: bool) -> str:
    return f"{_count(cell.cycles)} ({cell.bound_by})" if in_cycles else f"{cell.cost.bit_operations:,.0f}"


def _count(cycles: float) -> str:
    """Return cycles; few of them with their fraction, so that none looks free that is not."""
    return f"{cycles:,.0f}" if cycles >= 10 else f"{cycles:.3g}"


def totals(table: CostTable, target: Target, chosen: list[Mapping[str, Bits]]) -> dict[str, list[float]]:
    """Return what is known of policies as a whole: label with its unit → one number a policy."""
    from qir.backends.costs.tables.reports import critical_path, model_bytes, peak_memory

    def of(metric: str, scale: float = 1.0) -> list[float]:
        return [float(value) / scale for value in table.cost(chosen, metric, unknown="ignore")]

    model, found = target.cost_model(), dict[str, list[float]]()
    if model.knows_cycles:
        found["cycles"] = of("cycles")
        if model.knows_energy:
            found["energy, uJ"] = of("energy_pj", 1e6)
        found["moved, KiB"] = of("total_bytes", 1024)
    found["bit operations, M"] = of("bit_operations", 1e6)
    found["model, KiB"] = [float(size) / 1024 for size in model_bytes(table, chosen)]
    found["peak activations, KiB"] = [float(size) / 1024 for size in peak_memory(table, chosen)]
    if model.knows_cycles:
        found["critical path, cycles"] = [critical_path(table, bits).cycles for bits in chosen]
        if target.clock_hz is not None:
            found["ms"] = [count / target.clock_hz * 1e3 for count in found["cycles"]]
    return found


def explanations(table: CostTable, node: str) -> list[str]:
    """Return sentences on what bounds one node (or `all`) at each pair of widths, and where fewer bits stop helping."""
    from qir.backends.costs.tables.reports import explain_costs

    names = dict.fromkeys(row.name for row in table if row.known)
    lines = []
    for name in names if node == "all" else [node]:
        found = explain_costs(table, name)
        lines.append(f"{name}:")
        for (a, w), by in found.bound_by.items():
            widths = f"{a}/{w}" if w else str(a)
            lines.append(f"  {widths} bits: {_count(found.cycles[a, w])} cycles, bound by {by}")
        lines += [f"  {stop}" for stop in found.stops]
    return lines


def print_referee(console: Terminal, target: Target, rows: list[Compared]) -> None:
    """Print the compiler's cycles next to the cost model's."""
    from rich.table import Table

    from qir.backends.vela.referee import rank_correlation

    spec = target.referee
    title = "" if spec is None else f"{spec.compiler}, {spec.accelerator}, {spec.system_config}, {spec.memory_mode}"
    shown = Table(title=f"{target.name} next to {title}: cycles")
    shown.add_column("node")
    shown.add_column("op")
    for name in ("ours", "referee", "ours / referee"):
        shown.add_column(name, justify="right")
    for row in rows:
        ratio = f"{row.cycles / row.referee_cycles:.2f}" if row.referee_cycles else "fused"
        shown.add_row(row.node, row.op, f"{row.cycles:,.0f}", f"{row.referee_cycles:,.0f}", ratio)
    ours, theirs = sum(row.cycles for row in rows), sum(row.referee_cycles for row in rows)
    shown.add_section()
    shown.add_row("total", "", f"{ours:,.0f}", f"{theirs:,.0f}", f"{ours / theirs:.2f}" if theirs else "")
    console.print(shown)
    print_lines(console, [f"rank correlation over the layers: {rank_correlation(rows):.3f}"])


def print_fit(console: Terminal, found: FitResult) -> None:
    """Fitted parameters, and the errors by class of layers."""
    values = ", ".join(f"{name} {value:.4g}" for name, value in found.parameters.items())
    lines = [f"fitted: {values}; one cycle is {found.scale:.4g} of the measurements' unit"]
    lines += [
        f"{name}: {residual.entries} measurements, median error {residual.median:.1%}, largest {residual.largest:.1%}"
        for name, residual in found.residuals.items()
    ]
    print_lines(console, lines)
