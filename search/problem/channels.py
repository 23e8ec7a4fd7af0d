"""Widths along channels (AutoQ): a weight's decision becomes one decision for each group of its output channels."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from qir.module import Module
from qir.passes.analysis.quantized_layers import quantized_layers
from qir.passes.constraints.propagate_constraints import BitConstraints
from qir.policy import Bits, Policy
from qir.search.problem.parts import Decision, PairCost, Relation
from qir.search.problem.problem import Problem
from qir.search.problem.statement import Metric

_CHANNEL = re.compile(r"^(.*)\[(\d+)\]$")


def completed(constraints: BitConstraints, decided: Mapping[str, Bits]) -> Policy:
    """Return the whole policy that follows from decisions, some of which may have one width for each channel.

    Raises:
        QirError: a decision is missing, unknown, or chooses a width that is not an option.
    """
    along = {name: bits for name, bits in decided.items() if isinstance(bits, tuple)}
    plain = {name: bits if isinstance(bits, int) else constraints.options[name][0] for name, bits in decided.items()}
    return Policy({**constraints.complete(plain), **along})


@dataclass(frozen=True)
class ChannelGroups:
    """Groups of output channels of the weights whose width is a decision that nothing follows.

    Attributes:
        sizes: decision → number of channels of each of its groups.
    """

    sizes: Mapping[str, tuple[int, ...]]

    @staticmethod
    def of(module: Module, constraints: BitConstraints, most: int) -> ChannelGroups:
        """Return at most `most` groups of neighbouring channels a weight, as equal as can be."""
        followed = {source for source, _ in constraints.implied.values()}
        sizes = {}
        for layer in quantized_layers(module.graph):
            name, axis = layer.weight.name, layer.weight.granularity.axis
            if name in constraints.decisions and name not in followed and axis is not None and layer.weight_tensor:
                channels = layer.weight_tensor.shape[axis]
                parts = np.array_split(np.arange(channels), min(most, channels))
                sizes[name] = tuple(len(part) for part in parts)
        return ChannelGroups(sizes)

    def policy(self, decided: Mapping[str, Bits]) -> Policy:
        """Return widths of channels from widths of groups.

        `{"conv1.weight[0]": 4, …}` → `{"conv1.weight": (4, 4, …)}`.
        """
        found: dict[str, Bits] = {}
        widths: dict[str, list[int]] = {}
        for name, bits in decided.items():
            match = _CHANNEL.match(name)
            if match is None or match[1] not in self.sizes or not isinstance(bits, int):
                found[name] = bits
                continue
            widths.setdefault(match[1], []).extend([bits] * self.sizes[match[1]][int(match[2])])
        return Policy(found | {name: tuple(along) for name, along in widths.items()})

    def expanded(self, problem: Problem) -> Problem:
        """Return the problem with a decision for each group.

        Costs and sensitivities go by a group's share of the channels.
        """
        parts = [self._parts(decision.name) for decision in problem.decisions]
        names = {d.name: p for d, p in zip(problem.decisions, parts, strict=True)}

        def spread(rows: Sequence[Sequence[float]]) -> list[list[float]]:
            return [
                (share * np.asarray(row)).tolist() for row, part in zip(rows, parts, strict=True) for _, share in part
            ]

        return Problem(
            [Decision(name, d.options) for d, part in zip(problem.decisions, parts, strict=True) for name, _ in part],
            costs={name: spread(rows) for name, rows in problem.costs.items()},
            pair_costs={
                name: [
                    PairCost(a, b, share * other * np.asarray(pair.matrix))
                    for pair in pairs
                    for a, share in names[pair.first]
                    for b, other in names[pair.second]
                ]
                for name, pairs in problem.pair_costs.items()
            },
            relations=[
                Relation(a, b, relation.allowed)
                for relation in problem.relations
                for a, _ in names[relation.first]
                for b, _ in names[relation.second]
            ],
            metrics={name: self._joined(metric) for name, metric in problem.metrics.items()},
            budgets=problem.budgets,
            sensitivity=None if problem.sensitivity is None else spread(problem.sensitivity),
            objective=None if problem.objective is None else _OfGroups(self, problem.objective),
            fixed_costs=problem.fixed_costs,
            references=problem.references,
            identity=problem.identity,
            features=None if problem.features is None else self._features(problem),
            importance=None if problem.importance is None else self._importance(problem.names, problem.importance),
            refused=problem.refused,
            left_out=problem.left_out,
            notes=problem.notes,
        )

    def _parts(self, name: str) -> list[tuple[str, float]]:
        """Return names of a decision's groups with their shares of the channels.

        The decision itself if it has no groups.
        """
        if name not in self.sizes:
            return [(name, 1.0)]
        total = sum(self.sizes[name])
        return [(f"{name}[{i}]", size / total) for i, size in enumerate(self.sizes[name])]

    def _importance(self, names: Sequence[str], counts: Sequence[float]) -> list[float]:
        """Return what a bit of each group counts: its share of what one of the layer counts."""
        return [share * count for name, count in zip(names, counts, strict=True) for _, share in self._parts(name)]

    def _features(self, problem: Problem) -> list[list[float]]:
        """Return features of the layer, and the group's place in it."""
        rows = []
        for decision, row in zip(problem.decisions, _rows(problem), strict=True):
            parts = self._parts(decision.name)
            rows += [[*row, i / len(parts)] for i in range(len(parts))]
        return rows

    def _joined(self, metric: Metric) -> Metric:
        return lambda policies: metric([self.policy(policy) for policy in policies])


def _rows(problem: Problem) -> list[list[float]]:
    return [] if problem.features is None else np.asarray(problem.features, np.float64).tolist()


@dataclass(frozen=True)
class _OfGroups:
    """An objective of policies of channels as one of policies of groups."""

    groups: ChannelGroups
    objective: Callable[[Policy], float]

    def __call__(self, decided: Policy) -> float:
        return self.objective(self.groups.policy(decided))
