"""What a cost of a network does not count, and which costs a budget cannot limit for that reason."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from qir.backends.costs.layers.layer_shapes import layer_names
from qir.backends.costs.layers.open_sizes import open_inputs, shape_text
from qir.backends.costs.tables.rows import CostRow, reasons_text
from qir.backends.costs.tables.table import CostTable
from qir.backends.costs.target import NO_TARGET
from qir.errors import SearchError
from qir.module import Module
from qir.ops import op_of

METRICS = {"latency": "cycles", "energy": "energy_pj", "bops": "bit_operations"}
"""Name of a budget → column of the cost table: cycles, picojoules, bit operations."""

PEAK_MEMORY = "peak-memory"


@dataclass(frozen=True, slots=True)
class UnknownCosts:
    """What is not known about a network's costs.

    Attributes:
        refused: name of a cost → why a budget on it would not bind.
        left_out: name of a cost → nodes without decisions that it does not count, and why.
    """

    refused: Mapping[str, str]
    left_out: Mapping[str, str]


def unknown_costs(module: Module, table: CostTable, deciders: Mapping[str, str | None]) -> UnknownCosts:
    """Sort nodes and tensors of unknown cost into those with decisions and those without.

    Args:
        module: the network, with the sizes that the table was made with.
        table: its costs.
        deciders: quantizer → the decision that its width follows from, or None.
    """
    refused, left_out = {}, {}
    shares = _shares(module)
    for name, metric in METRICS.items():
        rows = [row for row in table if metric != "bit_operations" or row.part == "product"]
        decided, free = _by_decisions([row for row in rows if not row.known], deciders)
        if decided:
            said = reasons_text(decided, "the cost of {names} is unknown, where bits are decided")
            refused[name] = (
                f"{said}; the budget would not bind: make the cost known, keep the layers float "
                "(insert-fake-quant{keep=[...]}), or limit size"
            )
        elif not free and not any(_costs_anything(row, metric) for row in rows):
            refused[name] = _says_nothing(table.target, name)
        if free:
            left_out[name] = reasons_text(free, "{names}") + _share_text(free, shares)
    _unsized(table, deciders, refused, left_out)
    return UnknownCosts(refused, left_out)


def refuse_cycles_of_none(target: str, budgets: Iterable[str]) -> None:
    """Refuse budgets on what hardware alone could tell, before any work is done.

    Raises:
        SearchError: no hardware is named, and a budget is in cycles or picojoules.
    """
    for name in budgets:
        if target == NO_TARGET and name in ("latency", "energy"):
            raise SearchError(f"budget {name!r}: {_says_nothing(target, name)}")


def _says_nothing(target: str, cost: str) -> str:
    """Return why a cost that is 0 for every node cannot be limited."""
    if target == NO_TARGET:
        return f"no hardware is named, so {cost} is unknown: name a target, or limit bops, size or average-bits"
    return f"target {target!r} gives every node 0: its cost model says nothing about {cost}"


def sizes_taken(module: Module, table: CostTable) -> tuple[str, ...]:
    """Return a note on sizes that the network leaves open and the first samples gave."""
    opened = open_inputs(module)
    given = [
        f"{name} {shape_text(shape, 'x')}"
        for name, shape in table.facts.sizes.items()
        if not all(isinstance(size, int) for size in opened.get(name, ())[1:])
    ]
    return (f"costs are those of one sample of the size of the first: {', '.join(given)}",) if given else ()


def _by_decisions(rows: list[CostRow], deciders: Mapping[str, str | None]) -> tuple[dict[str, str], dict[str, str]]:
    """Return reasons by node: of nodes that carry decisions, and of the others."""
    decided = {
        row.name: row.reason
        for row in rows
        if any(deciders.get(name) is not None for name in (row.activation, row.weight) if name is not None)
    }
    return decided, {row.name: row.reason for row in rows if row.name not in decided}


def _costs_anything(row: CostRow, metric: str) -> bool:
    return any(cost is not None and getattr(cost, metric) for line in row.costs for cost in line)


def _shares(module: Module) -> dict[str, float]:
    """Share of each layer in the multiply-accumulates that are known."""
    names = layer_names(module.graph)
    found = {names[node]: op_of(node).macs(node) or 0 for node in module.graph if op_of(node).is_expensive}
    total = sum(found.values())
    return {name: count / total for name, count in found.items() if count}


def _share_text(names: Mapping[str, str], shares: Mapping[str, float]) -> str:
    share = sum(shares.get(name, 0.0) for name in names)
    return f" ({100 * share:.3g} % of the multiply-accumulates)" if share else ""


def _unsized(
    table: CostTable, deciders: Mapping[str, str | None], refused: dict[str, str], left_out: dict[str, str]
) -> None:
    """Tensors of unknown size: peak memory does not count them."""
    unsized = table.facts.unsized
    decided = [name for name, quantizer in unsized.items() if quantizer and deciders.get(quantizer) is not None]
    shown = ", ".join((decided or list(unsized))[:5])
    if decided:
        refused[PEAK_MEMORY] = (
            f"the sizes of {shown} are unknown, and their bits are decided: the budget would not bind: calibrate with "
            "data, or run freeze-inputs{shapes=[...]},infer-types"
        )
    elif unsized:
        left_out[PEAK_MEMORY] = f"{shown}: their sizes are unknown"
