"""A search problem from a network, its constraints and a target's cost table."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial

import numpy as np
import numpy.typing as npt

from qir.backends.costs.layers.open_sizes import with_known_sizes
from qir.backends.costs.tables.reports import FLOAT_BITS, peak_memory, ratios
from qir.backends.costs.tables.rows import CostRow
from qir.backends.costs.tables.table import CostTable
from qir.errors import SearchError
from qir.fake_quant import FakeQuant
from qir.graph import Value
from qir.module import Module
from qir.ops import op_of
from qir.passes.analysis.quantized_layers import quantized_layers
from qir.passes.constraints.propagate_constraints import BitConstraints
from qir.policy import Bits, Policy
from qir.search.network.layer_features import layer_features
from qir.search.network.unknown_costs import METRICS, PEAK_MEMORY, sizes_taken, unknown_costs
from qir.search.problem.channels import completed
from qir.search.problem.parts import Budget, Decision, PairCost, Relation
from qir.search.problem.problem import Problem
from qir.support.nearest import nearest

Floats = npt.NDArray[np.float64]

MEMORY_PRICE = 120
"""Energy of fetching a weight over that of a MAC (ReLeQ, section 2.4)."""

BUDGETS = (*METRICS, "size", "average-bits", PEAK_MEMORY)
"""Costs of a network that a budget can limit."""


def read_budgets(given: Mapping[str, Budget | str | float], more: Sequence[str] = ()) -> dict[str, Budget]:
    """Return budgets by name from texts such as "0.5x".

    Args:
        given: name of a cost → `Budget`, text, or the limit in the cost's unit.
        more: names of further costs that are known.

    Raises:
        SearchError: no such cost (the nearest is named), or no limit above 0.
    """
    for name in given:
        if name not in (*BUDGETS, *more):
            raise SearchError(f"budget {name!r}: no cost has this name: {nearest(name, (*BUDGETS, *more))}")
    return {name: limit if isinstance(limit, Budget) else Budget.parse(str(limit)) for name, limit in given.items()}


def network_problem(
    module: Module,
    constraints: BitConstraints,
    table: CostTable,
    *,
    budgets: Mapping[str, Budget],
    objective: Callable[[Policy], float] | None = None,
    sensitivity: Sequence[Sequence[float]] | None = None,
    identity: Mapping[str, str] | None = None,
) -> Problem:
    """Return the problem of choosing bits for a network.

    Costs: `latency` (cycles), `energy` (picojoules), `bops` (bit operations), `size` (bits of packed weights) and
    `average-bits` (`size` over the number of weights); with a budget on it also `peak-memory` (bytes of activations
    that are alive at once, not additive: for searches that measure). A quantizer that follows from a decision costs
    with it; a node whose operands belong to two decisions is a pair cost.

    Args:
        module: calibrated network.
        constraints: its decisions, relations and implied quantizers.
        table: cost of every node on the target.
        budgets: limits by name of cost; relative ones are shares of 8 bits everywhere ("0.6x"), or of float32 for size,
            average bits, bit operations and peak memory ("0.1x fp32").
        objective: accuracy of a policy of decisions, to be maximised.
        sensitivity: additive proxy per decision and option, to be minimised; 0 everywhere where neither it nor an
            objective is given, for a problem that gets one with `dataclasses.replace`.
        identity: hashes of model, data and protocol, for a store.

    Raises:
        SearchError: a budget on a cost that is unknown for a node with decisions, or that the target does not give.
    """
    builder, sized = _Builder(constraints), with_known_sizes(module)
    unknown = unknown_costs(sized, table, builder.deciders())
    nothing = [[0.0] * len(constraints.options[name]) for name in constraints.decisions]
    costs, pair_costs, fixed = {}, {}, {}
    for name, metric in METRICS.items():
        costs[name], pair_costs[name], fixed[name] = builder.costs(table, metric)
    costs["size"], fixed["size"], weights = builder.sizes(module)
    costs["average-bits"] = [[bits / max(weights, 1) for bits in row] for row in costs["size"]]
    fixed["average-bits"] = fixed["size"] / max(weights, 1)
    return Problem(
        decisions=[Decision(name, constraints.options[name]) for name in constraints.decisions],
        costs=costs,
        pair_costs=pair_costs,
        fixed_costs=fixed,
        relations=builder.relations(),
        metrics={PEAK_MEMORY: partial(_peak_memory, table, constraints)} if PEAK_MEMORY in budgets else {},
        budgets=budgets,
        references={"fp32": _float_costs(table, constraints, weights)},
        objective=objective,
        sensitivity=nothing if sensitivity is None and objective is None else sensitivity,
        identity=identity or {},
        features=layer_features(sized, constraints, table, builder.deciders()),
        importance=builder.importance(sized),
        refused=unknown.refused,
        left_out=unknown.left_out,
        notes=sizes_taken(module, table),
    )


def _peak_memory(table: CostTable, constraints: BitConstraints, policies: Sequence[Policy]) -> Floats:
    """Return bytes of activations alive at once [policies], of policies of decisions."""
    return peak_memory(table, [completed(constraints, policy) for policy in policies])


def _float_costs(table: CostTable, constraints: BitConstraints, weights: int) -> dict[str, float]:
    """Return what the float32 network costs, where that follows from the number of values alone."""
    widest = constraints.complete({name: constraints.options[name][-1] for name in constraints.decisions})
    operations = table.cost([widest], "bit_operations", unknown="ignore")[0] * ratios(table, widest)["hawq_bops"]
    tensors = tuple(replace(tensor, quantizer=None, width=FLOAT_BITS) for tensor in table.facts.tensors)
    plain = CostTable([], {}, table.target, replace(table.facts, tensors=tensors))
    return {
        "size": float(FLOAT_BITS * weights),
        "average-bits": float(FLOAT_BITS),
        "bops": float(operations),
        PEAK_MEMORY: float(peak_memory(plain, [{}])[0]),
    }


class _Builder:
    def __init__(self, constraints: BitConstraints) -> None:
        self.constraints = constraints
        self.decisions = constraints.decisions

    def importance(self, module: Module) -> list[float] | None:
        """Return weights x 120 + MACs of the layers whose weights a decision sets; None where it sets no weights.

        ReLeQ, section 2.4: fetching a weight takes about 120 times the energy of a MAC. Activations count nothing.
        """
        found, deciders = dict.fromkeys(self.decisions, 0.0), self.deciders()
        for layer in quantized_layers(module.graph):
            decision = deciders[layer.weight.name]
            if decision is not None and layer.weight_tensor is not None:
                found[decision] += MEMORY_PRICE * layer.weight_tensor.size + (op_of(layer.node).macs(layer.node) or 0)
        return list(found.values()) if any(found.values()) else None

    def deciders(self) -> dict[str, str | None]:
        """Return every quantizer → the decision that its width follows from, None if it is fixed."""
        return {name: self.constraints.decided_by(name)[0] for name in self.constraints.options}

    def costs(self, table: CostTable, metric: str) -> tuple[list[list[float]], list[PairCost], float]:
        unary = {name: np.zeros(len(self.constraints.options[name])) for name in self.decisions}
        pairs: dict[tuple[str, str], Floats] = {}
        fixed = 0.0
        for row in table:
            if row.known:
                fixed += self._add_row(row, row.matrix(metric), unary, pairs)
        return (
            [unary[name].tolist() for name in self.decisions],
            [PairCost(a, b, m) for (a, b), m in pairs.items()],
            fixed,
        )

    def _add_row(
        self, row: CostRow, matrix: Floats, unary: dict[str, Floats], pairs: dict[tuple[str, str], Floats]
    ) -> float:
        first, columns_a = self._axis(row.activation, row.activation_widths)
        second, columns_w = self._axis(row.weight, row.weight_widths)
        decisions = list(dict.fromkeys(name for name in (first, second) if name is not None))
        if not decisions:
            return float(matrix[columns_a[0], columns_w[0]])
        if len(decisions) == 1:
            (decision,) = decisions
            count = len(self.constraints.options[decision])
            rows = columns_a if first is not None else columns_a * count
            columns = columns_w if second is not None else columns_w * count
            unary[decision] += matrix[rows, columns]
            return 0.0
        key = (decisions[0], decisions[1])
        pairs[key] = pairs.get(key, 0) + matrix[np.ix_(columns_a, columns_w)]
        return 0.0

    def _axis(self, quantizer: str | None, widths: tuple[int, ...]) -> tuple[str | None, list[int]]:
        if quantizer is None:
            return None, [0]
        decision, mapping = self.constraints.decided_by(quantizer)
        if decision is None:
            return None, [widths.index(next(iter(mapping.values())))]
        return decision, [widths.index(mapping[option]) for option in self.constraints.options[decision]]

    def sizes(self, module: Module) -> tuple[list[list[float]], float, int]:
        """Return bits of packed weights per decision and option, of those that no decision changes, and their number.

        A weight that several layers read counts once, and once more for every width that it can have besides.
        """
        unary = {name: np.zeros(len(self.constraints.options[name])) for name in self.decisions}
        fixed, weights = 0.0, 0
        counted: set[Value] = set()
        stored: set[tuple[Value, str | None, tuple[int, ...]]] = set()
        for quantizer in map(FakeQuant, module.graph.fake_quants()):
            weight = quantizer.source
            if weight.constant is None or not weight.is_constant:
                continue
            elements = weight.constant.size
            weights += 0 if weight in counted else elements
            counted.add(weight)
            decision, mapping = self.constraints.decided_by(quantizer.name)
            copy = (weight, decision, tuple(mapping.values()))
            if copy in stored:
                continue
            stored.add(copy)
            if decision is None:
                fixed += elements * next(iter(mapping.values()))
            else:
                unary[decision] += np.array(
                    [elements * mapping[o] for o in self.constraints.options[decision]], np.float64
                )
        return [unary[name].tolist() for name in self.decisions], fixed, weights

    def relations(self) -> list[Relation]:
        """Return legal pairs between decisions; what is implied is legal by construction."""
        found = []
        for relation in self.constraints.relations:
            (first, widths_a), (second, widths_b) = (
                self.constraints.decided_by(relation.first),
                self.constraints.decided_by(relation.second),
            )
            if first is None or second is None or first == second:
                continue
            allowed: set[tuple[Bits, Bits]] = {
                (a, b)
                for a, wide in widths_a.items()
                for b, narrow in widths_b.items()
                if (wide, narrow) in relation.allowed
            }
            found.append(Relation(first, second, frozenset(allowed)))
        return found
