"""A problem as arrays over option indices: vectorised costs, exact budgets, legal options."""

from __future__ import annotations

from collections.abc import Mapping, Sequence, Sized
from decimal import Decimal
from fractions import Fraction
from functools import cached_property
from math import floor, fsum
from typing import Any

import numpy as np

from qir.errors import SearchError
from qir.policy import Bits
from qir.search.problem.parts import Budget, Floats, Indices, exact, numbers
from qir.search.problem.statement import Statement
from qir.support.nearest import nearest

Bools = np.ndarray[Any, np.dtype[np.bool_]]
Edge = tuple[int, int]

_LARGEST_INTEGER = 2**53
_MOST_DECIMALS = 15
_ROUNDING = 1e-12


class AdditiveCost:
    """A sum of unary and pair terms.

    Attributes:
        unary: [decisions, most options], scaled; what is illegal is 0 here and barred by `Tables`.
        pairs: edge (first < second) -> [most options, most options], scaled.
        fixed: what no decision changes, scaled.
        scale: stored number = cost * scale. Where all numbers have few decimals the scale turns them into integers,
            so that sums are exact in float64 (`integral`).
        tolerance: more than the rounding error of a sum, scaled; 0 where sums are exact.
    """

    def __init__(self, unary: Floats, pairs: Mapping[Edge, Sequence[Floats]], fixed: float) -> None:
        matrices = [matrix for same_edge in pairs.values() for matrix in same_edge]
        terms = np.concatenate([unary.ravel(), *(m.ravel() for m in matrices), [fixed]])
        largest = np.abs(unary).max(1).sum() + sum(np.abs(m).max() for m in matrices) + abs(fixed)
        decimals = max(-int(Decimal(repr(float(x))).normalize().as_tuple().exponent) for x in np.unique(terms))
        self.integral = decimals <= _MOST_DECIMALS and largest * 10.0 ** max(decimals, 0) < _LARGEST_INTEGER
        self.scale = 10 ** max(decimals, 0) if self.integral else 1
        self.tolerance = 0.0 if self.integral else _ROUNDING * float(largest)
        self.unary = self._scaled(unary)
        self.pairs = {edge: np.sum([self._scaled(m) for m in same_edge], axis=0) for edge, same_edge in pairs.items()}
        self.fixed = float(self._scaled(np.array(fixed)))
        self._rows = np.arange(unary.shape[0])

    def _scaled(self, numbers: Floats) -> Floats:
        scaled: Floats = numbers * float(self.scale)
        return np.round(scaled) if self.integral else scaled

    def scaled_total(self, indices: Indices) -> Floats:
        """Return scaled cost of each row of option indices [policies, decisions]."""
        total: Floats = self.unary[self._rows, indices].sum(1) + self.fixed
        for (first, second), matrix in self.pairs.items():
            total += matrix[indices[:, first], indices[:, second]]
        return total

    def total(self, indices: Indices) -> Floats:
        """Cost of each row of option indices [policies, decisions], in the cost's unit."""
        return self.scaled_total(indices) / self.scale

    def exact_total(self, row: Indices) -> Fraction:
        """Cost of one policy: exact where sums are, else rounded once, so that a limit set to it is met."""
        terms = [self.fixed, *self.unary[self._rows, row]]
        terms += [matrix[row[first], row[second]] for (first, second), matrix in self.pairs.items()]
        return exact(fsum(terms)) / self.scale


class Tables:
    """Arrays of a problem.

    Attributes:
        sizes: number of options per decision.
        legal: [decisions, most options], False where an option does not exist or can be in no legal policy.
        relations: edge (first < second) -> [most options, most options] of legal pairs.
        costs: additive costs by name.
        sensitivity: the additive proxy, or None.
        limits: budget name -> exact limit in the cost's unit.
    """

    def __init__(self, problem: Statement) -> None:
        self._problem = problem
        self._position = {name: i for i, name in enumerate(problem.names)}
        self.sizes = tuple(len(d.options) for d in problem.decisions)
        width = max(self.sizes)
        self.legal: Bools = np.arange(width)[None, :] < np.array(self.sizes)[:, None]
        self.relations: dict[Edge, Bools] = {}
        for relation in problem.relations:
            self._add_relation(relation.first, relation.second, relation.allowed)
        self.costs = {name: self._cost(name) for name in problem.cost_names}
        self.sensitivity = None
        if problem.sensitivity is not None:
            self.sensitivity = AdditiveCost(self._unary("sensitivity", problem.sensitivity), {}, 0.0)
        self._make_consistent()
        self.limits = {name: self._limit(name, budget) for name, budget in problem.budgets.items()}

    @property
    def proxy(self) -> AdditiveCost:
        """The additive sensitivity, where a search cannot do without one.

        Raises:
            SearchError: the problem has an objective alone.
        """
        if self.sensitivity is None:
            raise SearchError("the problem has no sensitivity, which this search needs: give it one, or another method")
        return self.sensitivity

    @property
    def additive_budgets(self) -> tuple[str, ...]:
        """Names of the budgets on additive costs."""
        return tuple(name for name in self._problem.budgets if name in self.costs)

    def scaled_limit(self, name: str) -> float:
        """Limit of an additive budget in scaled units; of integral costs the largest integer within the limit."""
        cost = self.costs[name]
        limit = self.limits[name] * cost.scale
        return float(floor(limit)) if cost.integral else float(limit) + cost.tolerance

    @cached_property
    def relations_of(self) -> list[list[Edge]]:
        """Edges of the relations of each decision."""
        found: list[list[Edge]] = [[] for _ in self.sizes]
        for edge in self.relations:
            found[edge[0]].append(edge)
            found[edge[1]].append(edge)
        return found

    def depends_on_decisions(self, name: str) -> bool:
        """Return whether legal options differ in an additive cost."""
        cost = self.costs[name]
        if any(np.ptp(row[legal]) > 0 for row, legal in zip(cost.unary, self.legal, strict=True)):
            return True
        return any(np.ptp(matrix[self._legal_pairs(edge)]) > 0 for edge, matrix in cost.pairs.items())

    def _legal_pairs(self, edge: Edge) -> Bools:
        """[most options, most options] of a pair of decisions."""
        exists: Bools = self.legal[edge[0]][:, None] & self.legal[edge[1]][None, :]
        return np.asarray(exists & self.relations[edge]) if edge in self.relations else exists

    def edges(self) -> set[Edge]:
        """Return pairs of decisions that a relation or a pair cost joins."""
        return set(self.relations).union(*(cost.pairs for cost in self.costs.values()))

    def related(self, indices: Indices) -> Bools:
        """Return which rows of option indices [policies, decisions] break no relation."""
        good: Bools = np.asarray(self.legal[np.arange(len(self.sizes)), indices].all(1))
        for (first, second), allowed in self.relations.items():
            good &= allowed[indices[:, first], indices[:, second]]
        return good

    def feasible(self, indices: Indices) -> Bools:
        """Return which rows break no relation and no additive budget, in exact arithmetic."""
        good = self.related(indices)
        for name in self.additive_budgets:
            cost = self.costs[name]
            total, limit = cost.scaled_total(indices), self.scaled_limit(name)
            good &= total <= limit
            if not cost.integral:
                near = good & (total > limit - 2 * cost.tolerance)
                good[near] = [cost.exact_total(row) <= self.limits[name] for row in indices[near]]
        return good

    def violations(self, row: Indices) -> list[str]:
        """Return what one policy breaks, in words."""
        names, options = self._problem.names, [d.options for d in self._problem.decisions]
        words = [
            f"relation {names[a]!r} - {names[b]!r}: ({options[a][row[a]]}, {options[b][row[b]]}) is not a legal pair"
            for (a, b), allowed in self.relations.items()
            if not allowed[row[a], row[b]]
        ]
        words += [
            f"decision {names[d]!r}: {options[d][i]} is in no legal policy"
            for d, i in enumerate(row)
            if not self.legal[d, i]
        ]
        for name in self.additive_budgets:
            total = self.costs[name].exact_total(row)
            if total > self.limits[name]:
                words.append(f"budget {name!r}: {float(total):g} is over {float(self.limits[name]):g}")
        return words

    def reference(self, name: str) -> float:
        """Return reference cost of a ratio.

        The budget's own, else 8 bits everywhere, else the most expensive options.
        """
        budget = self._problem.budgets.get(name)
        if budget is not None and budget.ratio is not None:
            return float(self._reference(name, budget.reference))
        eight = self._all_eight()
        if name in self.costs and eight is not None:
            return float(self.costs[name].exact_total(eight))
        if name not in self.costs:
            return float(self.limits[name]) if name in self.limits else 1.0
        cost = self.costs[name]
        most = cost.unary.max(1).sum() + sum(m.max() for m in cost.pairs.values()) + cost.fixed
        return float(most) / cost.scale

    def _all_eight(self) -> Indices | None:
        row = []
        for decision in self._problem.decisions:
            eights = [i for i, o in enumerate(decision.options) if set(_widths(o)) == {8}]
            if not eights:
                return None
            row.append(eights[0])
        indices = np.array(row)
        return indices if self.related(indices[None])[0] else None

    def _reference(self, name: str, reference: float | str | Mapping[str, Bits] | None) -> Fraction:
        if isinstance(reference, str):
            known = self._problem.references
            if name not in known.get(reference, {}):
                fitting = [other for other, costs in known.items() if name in costs]
                raise SearchError(
                    f"budget {name!r}: reference {reference!r} has no such cost: {nearest(reference, fitting)}"
                )
            return exact(known[reference][name])
        if isinstance(reference, (int, float)):
            return exact(float(reference))
        row = np.array(self._problem.indices(reference)) if reference is not None else self._all_eight()
        if row is None:
            raise SearchError(
                f"budget {name!r}: 8 bits everywhere is not a legal policy here; name the reference: "
                "Budget(ratio=..., reference=<a cost, a policy or a named reference>)"
            )
        if name in self._problem.metrics:
            return exact(float(self._problem.metric(name, [self._problem.policy(row)])[0]))
        return self.costs[name].exact_total(row)

    def _limit(self, name: str, budget: Budget) -> Fraction:
        if budget.maximum is not None:
            return exact(budget.maximum)
        if budget.ratio is None:
            raise SearchError(f"budget {name!r}: has no limit; give maximum or ratio")
        return exact(budget.ratio) * self._reference(name, budget.reference)

    def _index(self, name: str, what: str) -> int:
        if name not in self._position:
            raise SearchError(f"{what}: there is no decision {name!r}")
        return self._position[name]

    def _edge(self, first: str, second: str, what: str) -> tuple[Edge, bool]:
        a, b = self._index(first, what), self._index(second, what)
        if a == b:
            raise SearchError(f"{what}: decision {first!r} is paired with itself")
        return ((a, b), False) if a < b else ((b, a), True)

    def _add_relation(self, first: str, second: str, allowed: frozenset[tuple[Bits, Bits]]) -> None:
        what = f"relation {first!r} - {second!r}"
        edge, flipped = self._edge(first, second, what)
        matrix = np.zeros((self.legal.shape[1],) * 2, dtype=bool)
        rows, columns = (self._problem.decisions[self._position[n]].options for n in (first, second))
        for a, b in allowed:
            if a in rows and b in columns:
                matrix[rows.index(a), columns.index(b)] = True
        self._restrict(edge, matrix.T if flipped else matrix)

    def _restrict(self, edge: Edge, allowed: Bools) -> None:
        self.relations[edge] = self.relations[edge] & allowed if edge in self.relations else allowed

    def _cost(self, name: str) -> AdditiveCost:
        given = self._problem.costs.get(name)
        unary = self._unary(name, given) if given is not None else np.zeros(self.legal.shape)
        pairs: dict[Edge, list[Floats]] = {}
        for pair in self._problem.pair_costs.get(name, ()):
            what = f"pair cost {name!r} of {pair.first!r} and {pair.second!r}"
            edge, flipped = self._edge(pair.first, pair.second, what)
            matrix = numbers(what, pair.matrix)
            expected = (self.sizes[self._position[pair.first]], self.sizes[self._position[pair.second]])
            if matrix.shape != expected or (np.isnan(matrix) | np.isneginf(matrix)).any():
                raise SearchError(f"{what}: shape {matrix.shape}; expected {expected}, no NaN and no -inf")
            padded = np.full((self.legal.shape[1],) * 2, np.inf)
            padded[tuple(slice(n) for n in (matrix.T if flipped else matrix).shape)] = matrix.T if flipped else matrix
            self._restrict_infinite(edge, padded)
            pairs.setdefault(edge, []).append(np.where(np.isfinite(padded), padded, 0.0))
        fixed = float(self._problem.fixed_costs.get(name, 0.0))
        if not np.isfinite(fixed):
            raise SearchError(f"fixed cost {name!r}: {fixed} is not a finite number")
        return AdditiveCost(unary, pairs, fixed)

    def _restrict_infinite(self, edge: Edge, padded: Floats) -> None:
        exists = self.legal[edge[0]][:, None] & self.legal[edge[1]][None, :]
        if np.isposinf(padded[exists]).any():
            self._restrict(edge, np.isfinite(padded))

    def _unary(self, name: str, rows: Sequence[Sequence[float]]) -> Floats:
        count = len(rows) if isinstance(rows, Sized) else 0
        if count != len(self.sizes):
            raise SearchError(f"cost {name!r}: {count} rows; expected one per decision ({len(self.sizes)})")
        table = np.zeros(self.legal.shape)
        for i, row in enumerate(rows):
            what = f"cost {name!r} of {self._problem.names[i]!r}"
            given = numbers(what, row)
            if given.shape != (self.sizes[i],) or (np.isnan(given) | np.isneginf(given)).any():
                raise SearchError(f"{what}: {row}; expected {self.sizes[i]} numbers, no NaN and no -inf")
            self.legal[i, : self.sizes[i]] &= ~np.isposinf(given)
            table[i, : self.sizes[i]] = np.where(np.isfinite(given), given, 0.0)
        return table

    def _make_consistent(self) -> None:
        changed = True
        while changed:
            before = int(self.legal.sum())
            for (first, second), allowed in self.relations.items():
                self.legal[first] &= (allowed & self.legal[second][None, :]).any(1)
                self.legal[second] &= (allowed & self.legal[first][:, None]).any(0)
            changed = int(self.legal.sum()) != before
        for i, row in enumerate(self.legal):
            if not row.any():
                raise SearchError(f"decision {self._problem.names[i]!r}: the relations leave it no option")


def _widths(option: Bits) -> tuple[int, ...]:
    return option if isinstance(option, tuple) else (option,)
