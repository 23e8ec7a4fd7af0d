"""What a cost table tells next to totals: critical path, memory, sizes, ratios, explanations, transfer of policies."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from qir.backends.costs.layers.cost import Cost, combined
from qir.backends.costs.tables.rows import CostRow, layer_cells
from qir.backends.costs.tables.table import CostTable
from qir.errors import TargetError
from qir.policy import Bits
from qir.support.nearest import nearest

Floats = npt.NDArray[np.float64]
FLOAT_BITS = 32
_SAME = 1e-3
"""Relative change of cycles that counts as none."""


@dataclass(frozen=True, slots=True)
class CriticalPath:
    """The longest chain of nodes: what remains when branches run side by side.

    Attributes:
        cycles: its length.
        nodes: layer names along it.
    """

    cycles: float
    nodes: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class CostExplanation:
    """What bounds a layer at each pair of widths, and where fewer bits stop helping.

    Attributes:
        node: layer name.
        bound_by: (activation bits, weight bits) → what bounds the node; legal pairs only; 0 weight bits = no weight.
        cycles: the same keys → cycles of the node, without the traffic of its result where it is a layer.
        stops: sentences on where fewer bits stop helping.
    """

    node: str
    bound_by: Mapping[tuple[int, int], str]
    cycles: Mapping[tuple[int, int], float]
    stops: tuple[str, ...]


def critical_path(table: CostTable, policy: Mapping[str, Bits]) -> CriticalPath:
    """Return the longest path through a graph with branches, in cycles; unknown nodes count as zero."""
    import networkx as nx

    rows = {row.step: row for row in table.rows(policy)}
    start = -1
    steps: nx.DiGraph[int] = nx.DiGraph()
    for step, sources in table.facts.predecessors.items():
        cycles = rows[step].cycles if step in rows else 0.0
        steps.add_edges_from(((source, step) for source in sources or (start,)), cycles=cycles)
    path = nx.dag_longest_path(steps, weight="cycles")
    total = float(nx.path_weight(steps, path, weight="cycles")) if path else 0.0
    return CriticalPath(total, tuple(rows[step].node if step in rows else "?" for step in path if step != start))


def peak_memory(table: CostTable, policies: Sequence[Mapping[str, Bits]]) -> Floats:
    """Most bytes of activations that are alive at once (max-cut over the file's order of nodes): float64 [policies].

    An activation lives from the node that writes it to the last that reads it, packed at its quantizer's width, or as
    float32 without one.
    """
    tensors = table.facts.tensors
    if not tensors or not policies:
        return np.zeros(len(policies))
    steps = np.arange(max(tensor.last for tensor in tensors) + 1)
    alive = np.array([(steps >= tensor.first) & (steps <= tensor.last) for tensor in tensors], np.float64)
    elements = np.array([tensor.elements for tensor in tensors], np.float64)
    widths = np.array(
        [[_mean_bits(policy, t.quantizer) if t.quantizer else t.width for t in tensors] for policy in policies]
    )
    return np.asarray((widths * elements @ alive).max(axis=1) / 8)


def model_bytes(table: CostTable, policies: Sequence[Mapping[str, Bits]]) -> Floats:
    """Return bytes of packed weights, their float32 scales, and float32 constants that are not quantized.

    Shape [policies].
    """
    weights = table.facts.weights
    return np.array(
        [
            sum(
                weight.elements * (_mean_bits(policy, weight.quantizer) if weight.quantizer else FLOAT_BITS)
                + weight.scales * FLOAT_BITS
                for weight in weights
            )
            / 8
            for policy in policies
        ]
    )


def _mean_bits(policy: Mapping[str, Bits], name: str) -> float:
    bits = policy[name]
    return sum(bits) / len(bits) if isinstance(bits, tuple) else float(bits)


def ratios(table: CostTable, policy: Mapping[str, Bits]) -> dict[str, float]:
    """Return the compression of a policy, as the papers define it.

    - `haq_latency`: cycles / cycles of the widest policy up to 8 bits (HAQ's preserve ratio; lower is better); it is
      also the ratio of Wang et al. 2024 (quantized / original cost of the delay table)
    - `haq_weights`: bits of float32 weights / bits of quantized weights (HAQ's model size; scales are not counted)
    - `hawq_size`: the same with scales and unquantized constants on both sides (HAWQ counts stored bytes)
    - `hawq_bops`: bit operations at 32/32 bits / bit operations of the policy (HAWQ-V3 counts MACs x bits x bits)
    """
    widest = _reference(table)
    cycles = table.cost([policy, widest], unknown="ignore")
    quantized = [weight for weight in table.facts.weights if weight.quantizer is not None]
    packed = sum(weight.elements * _mean_bits(policy, weight.quantizer or "") for weight in quantized)
    everything = sum(weight.elements for weight in table.facts.weights) * FLOAT_BITS / 8
    bops, reference = table.cost([policy, widest], "bit_operations", unknown="ignore")
    per_mac = [row for row in table.rows(widest) if row.weight_bits is not None]
    float_bops = sum(
        row.cost.bit_operations / (row.activation_bits * (row.weight_bits or 1)) * FLOAT_BITS**2 for row in per_mac
    )
    found = {"haq_latency": _ratio(cycles[0], cycles[1])}
    found["haq_weights"] = _ratio(sum(weight.elements for weight in quantized) * FLOAT_BITS, packed)
    found["hawq_size"] = _ratio(everything, float(model_bytes(table, [policy])[0]))
    found["hawq_bops"] = _ratio(float_bops, bops if reference else 0.0)
    return found


def _ratio(numerator: float, denominator: float) -> float:
    return float(numerator / denominator) if denominator else float("nan")


def _reference(table: CostTable) -> dict[str, Bits]:
    """Return every quantizer at its widest width of at most 8 bits."""
    return {name: max((w for w in widths if w <= 8), default=widths[-1]) for name, widths in table.widths.items()}


def explain_costs(table: CostTable, node: str) -> CostExplanation:
    """Return what bounds a node at each legal pair of widths, and where fewer bits stop helping.

    Raises:
        TargetError: the table has no such node, or its cost is unknown; names the nearest.
    """
    terms: dict[str, list[CostRow]] = {}
    for row in table:
        if row.known:
            terms.setdefault(row.name, []).append(row)
    rows = terms.get(node)
    if rows is None:
        raise TargetError(f"cost table: no layer {node!r} of known cost: {nearest(node, terms)}")
    cells = layer_cells(rows) or _streams(rows)
    cycles = {pair: cost.cycles for pair, cost in cells.items()}
    bounds = {pair: cost.bound_by for pair, cost in cells.items()}
    return CostExplanation(node, bounds, cycles, tuple(_stops(cycles, bounds)))


def _streams(rows: Sequence[CostRow]) -> dict[tuple[int, int], Cost]:
    """(bits, 0) → cost of a node without weights, all its tensors at that width, or at their widest without it."""
    widths = sorted({bits for row in rows for bits in row.activation_widths if row.activation is not None})
    found = {}
    for bits in widths or rows[0].activation_widths:
        at = [row.activation_widths.index(bits) if bits in row.activation_widths else -1 for row in rows]
        costs = [row.costs[index][0] for row, index in zip(rows, at, strict=True)]
        found[bits, 0] = combined(cost for cost in costs if cost is not None)
    return found


def _stops(cycles: Mapping[tuple[int, int], float], bounds: Mapping[tuple[int, int], str]) -> list[str]:
    """Along each axis, the width below which the cycles stay the same."""
    found = []
    for axis, own, other in ((0, "activation", "weights"), (1, "weight", "activations")):
        for fixed in sorted({pair[1 - axis] for pair in cycles}):
            line = sorted(pair for pair in cycles if pair[1 - axis] == fixed)
            least = cycles[line[0]]
            helpful = max(pair for pair in line if cycles[pair] <= least * (1 + _SAME))
            if helpful != line[0]:
                where = f" at {fixed}-bit {other}" if fixed else ""
                found.append(f"fewer than {helpful[axis]} {own} bits change nothing{where}: bound by {bounds[helpful]}")
    return found


def transfer_matrix(
    tables: Mapping[str, CostTable], policies: Mapping[str, Mapping[str, Bits]], metric: str = "cycles"
) -> Floats:
    """Cost of each target's policy (row) on each target (column): float64 [policies, tables]; +inf = illegal there.

    HAQ's table of three hardwares: the best policy for one target is not the best for another.

    Args:
        tables: the same network's table on each target.
        policies: the policy found for each target.
        metric: as in `CostTable.cost`.
    """
    cells = [[_cost_or_illegal(table, policy, metric) for table in tables.values()] for policy in policies.values()]
    return np.array(cells, np.float64)


def _cost_or_illegal(table: CostTable, policy: Mapping[str, Bits], metric: str) -> float:
    if any(bits not in table.widths.get(name, ()) for name, bits in policy.items() if isinstance(bits, int)):
        return float("inf")
    return float(table.cost([policy], metric, unknown="ignore")[0])
