"""Searches that decide weights alone (ReLeQ): activations keep a width, and results name it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from itertools import product

from qir.fake_quant import quantizers
from qir.module import Module
from qir.passes.constraints.arc_consistency import PairRelation
from qir.passes.constraints.propagate_constraints import BitConstraints
from qir.policy import Policy
from qir.search.problem.result import Result


def weights_alone(module: Module, constraints: BitConstraints) -> BitConstraints:
    """Return the constraints with every activation at its widest, where no weight's width depends on it."""
    weights = {name for name, quantizer in quantizers(module.graph).items() if quantizer.is_weight}
    options = dict(constraints.options)
    for name, group in constraints.groups().items():
        widest = {member: widths[options[name][-1]] for member, widths in group.items()}
        if not weights & group.keys() and not any(
            _restricts(relation, widest, options) for relation in constraints.relations
        ):
            options[name] = options[name][-1:]
    return replace(constraints, options=options)


def _restricts(relation: PairRelation, fixed: Mapping[str, int], options: Mapping[str, tuple[int, ...]]) -> bool:
    """Return whether a relation forbids a pair of widths of which at least one is fixed."""
    ends = (relation.first, relation.second)
    if not fixed.keys() & set(ends):
        return False
    first, second = ((fixed[end],) if end in fixed else options[end] for end in ends)
    return any(pair not in relation.allowed for pair in product(first, second))


def with_kept(result: Result, kept: Mapping[str, int]) -> Result:
    """Return a result whose policies name decisions too that were not searched.

    Args:
        result: of a search over a part of the decisions.
        kept: width of every decision where a policy says nothing.
    """

    def whole(policy: Policy) -> Policy:
        return Policy({**kept, **policy})

    front, evaluations = (
        [replace(row, policy=whole(row.policy)) for row in rows] for rows in (result.front, result.evaluations)
    )
    return replace(result, policy=whole(result.policy), front=front, evaluations=evaluations)
