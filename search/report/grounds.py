"""What decisions were taken on: the problem that was solved, and what ties and bounds every quantizer."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from qir.fake_quant import quantizers
from qir.module import Module
from qir.passes.constraints.propagate_constraints import BitConstraints
from qir.policy import Bits
from qir.search.problem.parts import Budget, Decision, PairCost, Relation
from qir.search.problem.problem import Problem
from qir.support.json_text import typed


@dataclass(frozen=True)
class Grounds:
    """What decisions were taken on.

    Attributes:
        decided_by: quantizer → the decision that sets it, and that decision's option → its bits; fixed ones are
            missing.
        restrictions: quantizer → why widths are excluded, and what ties it to others.
        ranges: quantizer → bits → (lowest, highest) value of its grid, over all channels.
        problem: what was solved, with additive sensitivities; None where nothing was, or policies were measured.
    """

    decided_by: Mapping[str, tuple[str, Mapping[int, int]]]
    restrictions: Mapping[str, str]
    ranges: Mapping[str, Mapping[int, tuple[float, float]]]
    problem: Problem | None = field(default=None, compare=False)

    @staticmethod
    def of(module: Module, constraints: BitConstraints, problem: Problem | None) -> Grounds:
        """Return the grounds of a calibrated network's decisions.

        Args:
            module: the network.
            constraints: its decisions.
            problem: what was solved; kept where it minimises sensitivities and every cost is additive.
        """
        decided = {name: constraints.decided_by(name) for name in constraints.options}
        additive = problem is not None and problem.objective is None and not problem.metrics
        return Grounds(
            {name: (decision, widths) for name, (decision, widths) in decided.items() if decision is not None},
            {name: constraints.explain(name) for name in constraints.options},
            {name: _ranges(quantizer) for name, quantizer in quantizers(module.graph).items()},
            problem if additive else None,
        )

    def to_json(self) -> dict[str, Any]:
        """Return the record as plain numbers, lists and text."""
        decided = {name: [decision, _text_keys(widths)] for name, (decision, widths) in self.decided_by.items()}
        return {
            "decided_by": decided,
            "restrictions": dict(self.restrictions),
            "ranges": {name: _text_keys(found) for name, found in self.ranges.items()},
            "problem": None if self.problem is None else _problem_json(self.problem),
        }

    @staticmethod
    def of_json(found: Mapping[str, Any]) -> Grounds:
        """Return the grounds that `to_json` wrote; raises KeyError, TypeError or ValueError on anything else."""
        decided = typed(dict[str, tuple[str, dict[int, int]]], found["decided_by"])
        ranges = typed(dict[str, dict[int, tuple[float, float]]], found["ranges"])
        problem = None if found["problem"] is None else _problem_of(found["problem"])
        return Grounds(decided, typed(dict[str, str], found["restrictions"]), ranges, problem)


def _ranges(quantizer: Any) -> dict[int, tuple[float, float]]:
    if not quantizer.is_calibrated:
        return {}
    found = {bits: quantizer.ranges(bits) for bits in quantizer.widths}
    return {bits: (float(ranges[..., 0].min()), float(ranges[..., 1].max())) for bits, ranges in found.items()}


def _problem_json(problem: Problem) -> dict[str, Any]:
    """Return a problem of additive costs; a pair that is not legal costs null."""
    pairs = {
        name: [[p.first, p.second, [[_number(x) for x in row] for row in p.matrix]] for p in costs]
        for name, costs in problem.pair_costs.items()
    }
    relations = [(r.first, r.second, sorted([_plain(a), _plain(b)] for a, b in r.allowed)) for r in problem.relations]
    return {
        "decisions": [[decision.name, list(map(_plain, decision.options))] for decision in problem.decisions],
        "costs": {name: [list(map(float, row)) for row in rows] for name, rows in problem.costs.items()},
        "pair_costs": pairs,
        "relations": relations,
        "fixed_costs": dict(problem.fixed_costs),
        "limits": {name: float(problem.limit(name)) for name in problem.budgets},
        "sensitivity": [list(map(float, row)) for row in problem.sensitivity or []],
    }


def _problem_of(found: Mapping[str, Any]) -> Problem:
    decisions = typed(list[tuple[str, tuple[Bits, ...]]], found["decisions"])
    costs = typed(dict[str, list[tuple[str, str, list[list[float | None]]]]], found["pair_costs"])
    relations = typed(list[tuple[str, str, frozenset[tuple[Bits, Bits]]]], found["relations"])
    pairs = {
        name: [PairCost(a, b, [[math.inf if x is None else x for x in row] for row in matrix]) for a, b, matrix in each]
        for name, each in costs.items()
    }
    return Problem(
        decisions=[Decision(name, options) for name, options in decisions],
        costs=typed(dict[str, list[list[float]]], found["costs"]),
        pair_costs=pairs,
        relations=[Relation(a, b, allowed) for a, b, allowed in relations],
        fixed_costs=typed(dict[str, float], found["fixed_costs"]),
        budgets={name: Budget(maximum=limit) for name, limit in typed(dict[str, float], found["limits"]).items()},
        sensitivity=typed(list[list[float]], found["sensitivity"]),
    )


def _number(number: float) -> float | None:
    return float(number) if math.isfinite(number) else None


def _plain(bits: Bits) -> int | list[int]:
    return list(bits) if isinstance(bits, tuple) else bits


def _text_keys(found: Mapping[int, Any]) -> dict[str, Any]:
    return {str(key): list(value) if isinstance(value, tuple) else value for key, value in found.items()}
