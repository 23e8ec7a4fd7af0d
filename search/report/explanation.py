"""Why a tensor has its width: what restricts it, which budget binds, and what each other width would cost and lose.

The alternatives are exact: the problem is solved anew with the decision held at each other option. The price of a
budget is its dual in the linear relaxation: how much loss one more unit of the cost would save at the margin.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from qir.errors import SearchError
from qir.policy import Bits, Policy
from qir.search.problem.problem import Problem
from qir.search.problem.result import Result
from qir.search.report.grounds import Grounds
from qir.search.solvers.milp import Program
from qir.support.nearest import nearest

SECONDS = 20.0
"""Time for each alternative; one that is not proved best by then is told as the best found."""


@dataclass(frozen=True)
class Alternative:
    """The best policy in which a decision takes another option.

    Attributes:
        bits: the quantizer's bits there.
        value: its sensitivity, or its measured value; None where no policy takes the option.
        costs: what it costs, by name of the budget.
        changes: other decisions that change with it: name → (bits now, bits there).
        alone: cost by name of the budget, if nothing else changed; empty where that is illegal.
        missed: budget that no policy with this option meets → the smallest cost within reach.
    """

    bits: Bits
    value: float | None = None
    costs: Mapping[str, float] = field(default_factory=dict)
    changes: Mapping[str, tuple[Bits, Bits]] = field(default_factory=dict)
    alone: Mapping[str, float] = field(default_factory=dict)
    missed: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Explanation:
    """Why a quantizer has its bits.

    Attributes:
        quantizer: its name.
        bits: its bits.
        decision: the decision that sets it; empty where it is fixed.
        options: bits that the decision can give it, ascending; those at hand alone where it is fixed.
        restrictions: why other widths are excluded, and what ties it to other quantizers.
        value: the policy's sensitivity or measured value; None where nothing was searched.
        minimised: the value is a sensitivity.
        sensitivities: bits → how much they move the outputs, with everything that the decision sets.
        spent: budget → (cost, limit).
        prices: budget → loss that 1 % more of it would save, at the margin.
        alternatives: the other options.
        ranges: bits → (lowest, highest) value of the grid.
    """

    quantizer: str
    bits: Bits
    decision: str = ""
    options: tuple[int, ...] = ()
    restrictions: str = ""
    value: float | None = None
    minimised: bool = True
    sensitivities: Mapping[int, float] = field(default_factory=dict)
    spent: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    prices: Mapping[str, float] = field(default_factory=dict)
    alternatives: tuple[Alternative, ...] = ()
    ranges: Mapping[int, tuple[float, float]] = field(default_factory=dict)

    def lines(self) -> list[str]:
        """Return the explanation in words."""
        found = [f"{self.quantizer}: {_text(self.bits)}" + self._of_what()]
        if self.restrictions != "nothing restricts it":
            found.append(f"  restricted: {self.restrictions}")
        if self.value is None and self.decision:
            found.append("  why: no budget was given, so every tensor has its widest legal width")
        if self.sensitivities:
            moved = ", ".join(f"{_text(bits)} {loss:.3g}" for bits, loss in self.sensitivities.items())
            found.append(f"  sensitivity: {moved}")
        for name, (cost, limit) in self.spent.items():
            price = self.prices.get(name)
            more = "" if price is None else f"; 1 % more would save about {price:.3g} of {self.value:.3g}"
            found.append(f"  {name}: {cost:,.0f} of at most {limit:,.0f} ({cost / limit:.1%}){more}")
        found += [f"  {self._alternative(each)}" for each in self.alternatives]
        ranges = self.ranges.items()
        return found + [f"  range at {_text(bits)}: {low:.4g} to {high:.4g}" for bits, (low, high) in ranges]

    def _of_what(self) -> str:
        if not self.decision:
            return ", fixed"
        by = "" if self.decision == self.quantizer else f", set by {self.decision}"
        return f" of {', '.join(map(str, self.options))}{by}"

    def _alternative(self, other: Alternative) -> str:
        where = f"at {_text(other.bits)}"
        if other.missed:
            name, smallest = next(iter(other.missed.items()))
            return f"{where}: no policy meets {name}; the smallest within reach is {smallest:,.0f}"
        if other.value is None or self.value is None:
            return f"{where}: no policy was tried"
        over = [f"{n} {cost:,.0f}" for n, cost in other.alone.items() if n in self.spent and cost > self.spent[n][1]]
        alone = f" (alone it would cost {', '.join(over)}: too much)" if over else ""
        moved = ", ".join(f"{name} {a} → {b}" for name, (a, b) in list(other.changes.items())[:6])
        more = f" and {len(other.changes) - 6} more" if len(other.changes) > 6 else ""
        costs = "".join(f", {name} {cost:,.0f}" for name, cost in other.costs.items())
        word = "sensitivity" if self.minimised else "value"
        with_it = f"; with it {moved}{more}" if moved else "; nothing else changes"
        return f"{where}: {word} {other.value:.4g} in place of {self.value:.4g}{costs}{with_it}{alone}"


def explain(node: str, policy: Policy, grounds: Grounds, result: Result | None) -> list[Explanation]:
    """Explain the bits of a quantizer, or of all quantizers of a layer.

    Args:
        node: a quantizer, or a layer: what the names of its quantizers begin with.
        policy: bits of every quantizer.
        grounds: what they were decided on.
        result: how; None where nothing was searched.

    Raises:
        SearchError: there is no such quantizer or layer; names the nearest.
    """
    names = [name for name in policy if name == node] or [name for name in policy if name.startswith(f"{node}.")]
    if not names:
        layers = {name.rpartition(".")[0] for name in policy} - {""}
        raise SearchError(f"explain {node!r}: no such quantizer or layer: {nearest(node, {*policy, *layers})}")
    return [_explained(name, policy, grounds, result) for name in names]


def _explained(name: str, policy: Policy, grounds: Grounds, result: Result | None) -> Explanation:
    decision, widths = grounds.decided_by.get(name, ("", {}))
    plain = {
        "restrictions": grounds.restrictions.get(name, ""),
        "ranges": grounds.ranges.get(name, {}),
        "options": tuple(sorted(set(widths.values()))),
        "decision": decision,
    }
    if not decision or result is None:
        return Explanation(name, policy[name], **plain)  # type: ignore[arg-type]
    spent = {budget: (result.costs[budget], limit) for budget, limit in result.limits.items()}
    common = {**plain, "value": result.value, "minimised": result.minimised, "spent": spent}
    problem = grounds.problem
    if problem is None or decision not in problem.names:
        others = tuple(
            _tried(result, decision, option, bits) for option, bits in widths.items() if bits != policy[name]
        )
        return Explanation(name, policy[name], **common, alternatives=others)  # type: ignore[arg-type]
    row = problem.names.index(decision)
    options, losses = problem.decisions[row].options, (problem.sensitivity or [])[row]
    sensitivities = {widths[option]: loss for option, loss in zip(options, losses, strict=True) if option in widths}  # type: ignore[index]
    chosen = result.policy
    others = tuple(
        _solved(problem, chosen, row, index, widths[option])  # type: ignore[index]
        for index, option in enumerate(options)
        if option != chosen[decision] and option in widths
    )
    return Explanation(
        name,
        policy[name],
        **common,  # type: ignore[arg-type]
        sensitivities=sensitivities,
        prices=prices(problem),
        alternatives=others,
    )


def _solved(problem: Problem, chosen: Policy, row: int, index: int, bits: int) -> Alternative:
    """Return the exact best policy with one decision held at an option."""
    tables, budgets = problem.tables, problem.tables.additive_budgets
    if not tables.legal[row, index]:
        return Alternative(bits)
    program = Program(tables, budgets)
    program.hold(row, index)
    found = program.minimise(tables.proxy, SECONDS)
    if found.row is None:
        return Alternative(bits, missed=_missed(problem, row, index))
    policy = problem.policy(found.row)
    changes = {name: (chosen[name], policy[name]) for name in policy if chosen[name] != policy[name]}
    changes.pop(problem.names[row], None)
    swapped = Policy({**chosen, problem.names[row]: problem.decisions[row].options[index]})
    legal = bool(tables.related(np.array([problem.indices(swapped)]))[0])
    alone = {name: problem.cost(name, swapped) for name in budgets} if legal else {}
    costs = {name: problem.cost(name, policy) for name in budgets}
    return Alternative(bits, found.value, costs, changes, alone)


def _missed(problem: Problem, row: int, index: int) -> dict[str, float]:
    """Return the budget that no policy with the option meets, the worst first, and the smallest cost within reach."""
    tables, found = problem.tables, {}
    for name in tables.additive_budgets:
        program = Program(tables, [])
        program.hold(row, index)
        solved = program.minimise(tables.costs[name], SECONDS)
        if solved.row is not None and solved.value > float(problem.limit(name)):
            found[name] = solved.value
    return found or {name: float("nan") for name in tables.additive_budgets[:1]}


def prices(problem: Problem) -> dict[str, float]:
    """Return budget → loss that 1 % more of it would save at the margin: the dual of the linear relaxation."""
    tables = problem.tables
    if tables.sensitivity is None:
        return {}
    per_unit = Program(tables, tables.additive_budgets).prices(tables.sensitivity)
    return {name: price * float(problem.limit(name)) / 100 for name, price in per_unit.items()}


def _tried(result: Result, decision: str, option: int, bits: int) -> Alternative:
    """Return the best policy that was measured with an option, within the budgets."""
    within = [
        entry
        for entry in result.evaluations
        if entry.policy.get(decision) == option
        and not entry.error
        and all(entry.costs[name] <= limit for name, limit in result.limits.items())
    ]
    if not within:
        return Alternative(bits)
    best = (min if result.minimised else max)(within, key=lambda entry: entry.value)
    chosen = result.policy
    changes = {n: (chosen[n], best.policy[n]) for n in chosen if n != decision and chosen[n] != best.policy[n]}
    return Alternative(bits, best.value, {name: best.costs[name] for name in result.limits}, changes)


def _text(bits: Bits) -> str:
    if isinstance(bits, tuple):
        return f"{min(bits)} to {max(bits)} bits by channel"
    return f"{bits} bit" if bits == 1 else f"{bits} bits"
