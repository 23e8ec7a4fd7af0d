"""What is stated of a search problem, before anything is derived from it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from qir.errors import SearchError
from qir.policy import Bits, Policy
from qir.search.problem.parts import Budget, Decision, Floats, PairCost, Relation

Objective = Callable[[Policy], float]
Metric = Callable[[Sequence[Policy]], Floats]


@dataclass(frozen=True, eq=False)
class Statement:
    """The fields of a `Problem`.

    Attributes:
        decisions: in the order in which a walk takes them.
        costs: name of a cost -> per decision, per option.
        pair_costs: name of a cost -> pair costs, added to the unary costs of the same name.
        relations: legal pairs of options.
        metrics: costs that are not additive: callables from a list of policies to an array [policies].
        budgets: name of a cost or metric -> its limit.
        sensitivity: additive proxy to be minimised, [decisions, options].
        objective: measured value of a policy, to be maximised. With both, solvers that measure use the objective
            and may take the sensitivity as a guide.
        fixed_costs: name of a cost -> what no decision changes.
        references: name of a reference -> cost by name, for relative budgets ("0.1x fp32").
        identity: what a measured value depends on next to the policy, such as hashes of model, data and protocol;
            a store needs it.
        features: [decisions, features], what a learning searcher sees of each decision.
        importance: [decisions], what a bit of each decision counts in ReLeQ's state of quantization; alike without it.
        refused: name of a cost or metric -> why no budget can be set on it.
        left_out: name of a cost or metric -> what is not counted in it, and why.
        notes: what a reader of the costs should know.
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
    importance: Sequence[float] | None = None
    refused: Mapping[str, str] = field(default_factory=dict)
    left_out: Mapping[str, str] = field(default_factory=dict)
    notes: Sequence[str] = ()

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the decisions, in order."""
        return tuple(decision.name for decision in self.decisions)

    @property
    def cost_names(self) -> tuple[str, ...]:
        """Names of the additive costs, sorted."""
        return tuple(sorted({*self.costs, *self.pair_costs}))

    def policy(self, indices: Iterable[int]) -> Policy:
        """Return the policy that takes these option indices."""
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

    def metric(self, name: str, policies: Sequence[Policy]) -> Floats:
        """Return what policies cost by a metric that is not additive [policies].

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
