"""A search problem: decisions and their options, costs, relations, budgets, and what is to be optimised."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from qir.backends.costs.layers.validation import nearest
from qir.errors import SearchError
from qir.policy import Bits, Policy

if TYPE_CHECKING:
    from qir.search.problem.tables import Tables

Indices = np.ndarray[Any, np.dtype[np.intp]]
Floats = np.ndarray[Any, np.dtype[np.float64]]
Objective = Callable[[Policy], float]
Metric = Callable[[Sequence[Policy]], Floats]

_BUDGET = re.compile(r"\s*([0-9.eE+-]+)\s*(x?)\s*(\S*)\s*")


def exact(number: float | Fraction) -> Fraction:
    """The number as its shortest decimal says it: `exact(0.1)` is 1/10, not the nearest binary fraction."""
    return number if isinstance(number, Fraction) else Fraction(repr(float(number)))


def numbers(what: str, given: Any) -> Floats:
    """What a user gave as an array.

    Raises:
        SearchError: these are not numbers, or rows of different lengths.
    """
    try:
        return np.asarray(given, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise SearchError(f"{what}: {given!r}; expected numbers, in rows of equal length") from error


@dataclass(frozen=True, slots=True)
class Decision:
    """One choice of the search.

    Attributes:
        name: name of the quantizer (or of the layer) that is decided.
        options: the widths to choose from, in bits; an option is an int or a tuple of widths that are chosen together,
            for example (activation bits, weight bits).

    Raises:
        SearchError: no options, an option twice, or one that is not a width.
    """

    name: str
    options: tuple[Bits, ...]

    def __post_init__(self) -> None:
        try:
            options = tuple(tuple(int(b) for b in o) if isinstance(o, Iterable) else int(o) for o in self.options)
        except (TypeError, ValueError) as error:
            raise SearchError(
                f"decision {self.name!r}: options {self.options!r}; expected widths in bits such as (2, 4, 8), or "
                "tuples of widths"
            ) from error
        object.__setattr__(self, "options", options)
        if not options or len(set(options)) != len(options):
            raise SearchError(f"decision {self.name!r}: options {options}; expected one or more, none twice")


@dataclass(frozen=True, slots=True)
class PairCost:
    """A cost that depends on two decisions, such as a node's latency on its activation and its weight width.

    Attributes:
        first: name of the decision that selects the row.
        second: name of the decision that selects the column.
        matrix: [options of first, options of second]; +inf forbids a pair.
    """

    first: str
    second: str
    matrix: Sequence[Sequence[float]] | Floats


@dataclass(frozen=True, slots=True)
class Relation:
    """Which pairs of options of two decisions are legal.

    Attributes:
        first: name of a decision.
        second: name of another decision.
        allowed: legal pairs (option of first, option of second).
    """

    first: str
    second: str
    allowed: frozenset[tuple[Bits, Bits]]

    def __post_init__(self) -> None:
        try:
            object.__setattr__(self, "allowed", frozenset((a, b) for a, b in self.allowed))
        except (TypeError, ValueError) as error:
            raise SearchError(
                f"relation {self.first!r} - {self.second!r}: allowed {self.allowed!r}; expected pairs such as (8, 4)"
            ) from error

    @staticmethod
    def tie(first: str, second: str, options: Iterable[Bits]) -> Relation:
        """Both decisions take the same option."""
        return Relation(first, second, frozenset((o, o) for o in options))


@dataclass(frozen=True, slots=True)
class Budget:
    """The most that a cost may be.

    Attributes:
        maximum: the limit in the cost's unit, or
        ratio: the limit as a share of a reference cost.
        reference: what `ratio` is a share of: a cost, a policy, or a name in `Problem.references` such as "fp32";
            None is the policy with 8 bits everywhere.
    """

    maximum: float | None = None
    ratio: float | None = None
    reference: float | str | Mapping[str, Bits] | None = None

    def __post_init__(self) -> None:
        if (self.maximum is None) == (self.ratio is None):
            raise SearchError("budget: give either maximum (in the cost's unit) or ratio (of a reference)")
        limit = self.maximum if self.maximum is not None else self.ratio
        if isinstance(limit, str) or limit is None or not np.isfinite(limit):
            raise SearchError(f"budget: {limit!r} is not a finite number; Budget.parse reads text such as '0.6x'")
        if self.ratio is not None and self.ratio <= 0:
            raise SearchError(f"budget: a share of {self.ratio:g} of a reference; expected more than 0, such as 0.6")

    @staticmethod
    def parse(text: str) -> Budget:
        """Read "1000" (absolute), "0.6x" (of 8 bits everywhere) or "0.1x fp32" (of a named reference).

        Raises:
            SearchError: the text is none of these, or the limit is not above 0.
        """
        match = _BUDGET.fullmatch(str(text))
        try:
            limit = float(match[1]) if match else float("nan")
        except ValueError:
            limit = float("nan")
        if match and 0 < limit < float("inf"):
            if match[2]:
                return Budget(ratio=limit, reference=match[3] or None)
            if not match[3]:
                return Budget(maximum=limit)
        raise SearchError(
            f"budget {text!r}: expected a number above 0 ('1000'), or a share above 0 ('0.6x', '0.1x fp32')"
        )


@dataclass(frozen=True, eq=False)
class Problem:
    """Everything that a solver may know.

    Attributes:
        decisions: in the order in which a walk takes them.
        costs: name of a cost -> per decision, per option.
        pair_costs: name of a cost -> pair costs, added to the unary costs of the same name.
        relations: legal pairs of options.
        metrics: costs that are not additive: callables from a list of policies to an array [policies].
        budgets: name of a cost or metric -> its limit.
        sensitivity: additive proxy to be minimised, [decisions][options].
        objective: measured value of a policy, to be maximised. With both, solvers that measure use the objective
            and may take the sensitivity as a guide.
        fixed_costs: name of a cost -> what no decision changes.
        references: name of a reference -> cost by name, for relative budgets ("0.1x fp32").
        identity: what a measured value depends on next to the policy, such as hashes of model, data and protocol;
            a store needs it.
        features: [decisions, features], what a learning searcher sees of each decision.
        refused: name of a cost or metric -> why no budget can be set on it.
        left_out: name of a cost or metric -> what is not counted in it, and why.
        notes: what a reader of the costs should know.

    Raises:
        SearchError: names that do not exist, shapes that do not fit, NaN costs, nothing to optimise, a budget that
            would not bind.
    """

    decisions: Sequence[Decision]
    costs: Mapping[str, Sequence[Sequence[float]]] = field(default_factory=dict)
    pair_costs: Mapping[str, Sequence[PairCost]] = field(default_factory=dict)
    relations: Sequence[Relation] = ()
    metrics: Mapping[str, Metric] = field(default_factory=dict)
    budgets: Mapping[str, Budget] = field(default_factory=dict)
    sensitivity: Sequence[Sequence[float]] | None = None
    objective: Objective | None = None
    fixed_costs: Mapping[str, float] = field(default_factory=dict)
    references: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    identity: Mapping[str, str] = field(default_factory=dict)
    features: Sequence[Sequence[float]] | Floats | None = None
    refused: Mapping[str, str] = field(default_factory=dict)
    left_out: Mapping[str, str] = field(default_factory=dict)
    notes: Sequence[str] = ()

    def __post_init__(self) -> None:
        names = [decision.name for decision in self.decisions]
        if not names or len(set(names)) != len(names):
            raise SearchError(f"problem: decisions {names}; expected one or more, none twice")
        if self.sensitivity is None and self.objective is None:
            raise SearchError("problem: nothing to optimise; give sensitivity (minimised) or objective (maximised)")
        if self.objective is not None and not callable(self.objective):
            raise SearchError(f"problem: objective {self.objective!r}; expected a callable from a policy to a number")
        for name in self.fixed_costs:
            if name not in self.cost_names:
                raise SearchError(f"fixed cost {name!r}: no cost has this name; known are {list(self.cost_names)}")
        for name, budget in self.budgets.items():
            if not isinstance(budget, Budget):
                raise SearchError(f"budget {name!r}: {budget!r}; expected Budget(maximum=...) or Budget.parse('0.6x')")
            if name not in self.cost_names and name not in self.metrics:
                known = {*self.cost_names, *self.metrics}
                raise SearchError(f"budget {name!r}: no cost or metric has this name: {nearest(name, known)}")
            if name in self.refused:
                raise SearchError(f"budget {name!r}: {self.refused[name]}")
        if self.features is not None and numbers("features", self.features).shape[:1] != (len(names),):
            raise SearchError(f"problem: features of {len(self.features)} decisions; expected {len(names)}")
        _ = self.tables

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the decisions, in order."""
        return tuple(decision.name for decision in self.decisions)

    @property
    def cost_names(self) -> tuple[str, ...]:
        """Names of the additive costs, sorted."""
        return tuple(sorted({*self.costs, *self.pair_costs}))

    @cached_property
    def tables(self) -> Tables:
        """The problem as arrays over option indices."""
        from qir.search.problem.tables import Tables

        return Tables(self)

    def policy(self, indices: Iterable[int]) -> Policy:
        """The policy that takes these option indices."""
        return Policy({d.name: d.options[i] for d, i in zip(self.decisions, indices, strict=True)})

    def indices(self, policy: Mapping[str, Bits]) -> tuple[int, ...]:
        """Option indices of a policy.

        Raises:
            SearchError: the policy lacks a decision or takes an option that does not exist.
        """
        found = []
        for decision in self.decisions:
            bits = policy.get(decision.name)
            if bits not in decision.options:
                raise SearchError(f"policy: {decision.name!r} is {bits}; expected one of {decision.options}")
            found.append(decision.options.index(bits))
        return tuple(found)

    def cost(self, name: str, policy: Mapping[str, Bits]) -> float:
        """What a policy costs, in the unit of that cost or metric.

        Raises:
            SearchError: no such cost.
        """
        if name in self.metrics:
            return float(self.metric(name, [Policy(policy)])[0])
        if name not in self.tables.costs:
            raise SearchError(f"cost {name!r}: unknown; known are {[*self.tables.costs, *self.metrics]}")
        return float(self.tables.costs[name].exact_total(np.array(self.indices(policy))))

    def metric(self, name: str, policies: Sequence[Policy]) -> Floats:
        """What policies cost by a metric that is not additive [policies].

        Raises:
            SearchError: the callable raises, or does not return one number a policy.
        """
        try:
            values = np.asarray(self.metrics[name](policies), dtype=np.float64)
        except Exception as error:
            raise SearchError(
                f"metric {name!r}: {type(error).__name__}: {error}; expected a callable from a list of policies to an "
                "array"
            ) from error
        if values.shape != (len(policies),) or np.isnan(values).any():
            raise SearchError(
                f"metric {name!r}: {values} of {len(policies)} policies; expected one number a policy, no NaN"
            )
        return values

    def limit(self, name: str) -> Fraction:
        """The limit of a budget in the unit of its cost, exactly."""
        return self.tables.limits[name]

    def ratio(self, name: str, policy: Mapping[str, Bits]) -> float:
        """Cost of a policy as a share of the budget's reference (of 8 bits everywhere, if that is legal).

        Without a reference the most expensive options serve as one.
        """
        return self.cost(name, policy) / self.tables.reference(name)

    def violations(self, policy: Mapping[str, Bits]) -> list[str]:
        """Every relation and budget that a policy breaks, in words; budgets are held in exact arithmetic."""
        indices = np.array([self.indices(policy)])
        return self.tables.violations(indices[0]) + self._broken_metrics(policy)

    def feasible(self, indices: Indices) -> np.ndarray[Any, np.dtype[np.bool_]]:
        """Which rows of option indices [policies, decisions] break no relation and no budget."""
        good = self.tables.feasible(indices)
        for name in self.budgets:
            if name in self.metrics and good.any():
                policies = [self.policy(row) for row in indices[good]]
                good[good] = self.metric(name, policies) <= float(self.limit(name))
        return good

    def _broken_metrics(self, policy: Mapping[str, Bits]) -> list[str]:
        return [
            f"budget {name!r}: {self.cost(name, policy):g} is over {float(self.limit(name)):g}"
            for name in self.budgets
            if name in self.metrics and not self.cost(name, policy) <= float(self.limit(name))
        ]
