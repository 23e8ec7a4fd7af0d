"""Bit constraints: which widths remain possible, which quantizers are decisions, and what ties them.

A target lists legal operand pairs (activation bits, weight bits). "The weight bits of the next layer equal the
activation bits of the previous layer, 2 → 1" (Wang et al., 2024, section 3.3.1) is the pair list
{(2,1), (4,4), (8,8)}: a node's data operand is traced through ops that keep its grid to its quantizer, and the pair
(bits of that quantizer, bits of the weight's quantizer) must be legal. Options are pruned by arc consistency; a
quantizer whose bits follow from another one's is implied, what remains are the decisions.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import pairwise
from typing import ClassVar

from qir.constraints import OperandRules
from qir.errors import QirError
from qir.fake_quant import FakeQuant, quantizers
from qir.graph import Graph, Node
from qir.module import Module
from qir.ops import op_of
from qir.passes.analysis.quantized_layers import output_quantizer
from qir.passes.constraints.arc_consistency import PairRelation, implied_by, prune
from qir.passes.infrastructure.contract import Pass, PassContext
from qir.policy import Policy
from qir.tracing import quantizer_of

FIXED = "qir.fixed"
"""Metadata key of a quantizer that is not a decision; its value is the reason."""

FLOAT_BITS = 32
"""The width that targets list for data without a quantizer."""


@dataclass(frozen=True, slots=True)
class BitConstraints:
    """What a target leaves open.

    Attributes:
        options: the widths that remain for every quantizer, ascending.
        relations: pairs of quantizers whose widths depend on each other.
        implied: quantizers that follow from another one: name → (that one, its width → width of this one).
        excluded: (quantizer, width) → why that width is impossible.
        fixed: quantizers that a rule keeps at a width → the rule.
    """

    options: Mapping[str, tuple[int, ...]]
    relations: tuple[PairRelation, ...]
    implied: Mapping[str, tuple[str, Mapping[int, int]]]
    excluded: Mapping[tuple[str, int], str] = field(default_factory=dict)
    fixed: Mapping[str, str] = field(default_factory=dict)

    @property
    def decisions(self) -> tuple[str, ...]:
        """Quantizers with more than one option that no other quantizer determines, in graph order."""
        return tuple(name for name, options in self.options.items() if len(options) > 1 and name not in self.implied)

    def complete(self, decided: Mapping[str, int]) -> Policy:
        """Return the whole policy that follows from the decisions.

        Raises:
            QirError: a decision is missing, unknown, or chooses a width that is not an option.
        """
        bits: dict[str, int] = {}
        for name, options in self.options.items():
            if name in decided and decided[name] not in options:
                raise QirError(
                    f"quantizer {name!r}: {decided[name]} bits are not an option; options are {list(options)}: "
                    f"{self.explain(name)}"
                )
            if name in self.implied:
                continue
            if name not in decided and len(options) > 1:
                raise QirError(f"quantizer {name!r} is a decision with options {list(options)}: give its bits")
            bits[name] = decided.get(name, options[0])
        for name in self.implied:
            self._follow(name, bits)
        unknown = set(decided) - set(self.options)
        if unknown:
            raise QirError(f"quantizer {min(unknown)!r} does not exist; decisions are {', '.join(self.decisions)}")
        return Policy({name: bits[name] for name in self.options})

    def _follow(self, name: str, bits: dict[str, int]) -> int:
        if name not in bits:
            source, mapping = self.implied[name]
            bits[name] = mapping[self._follow(source, bits)]
        return bits[name]

    def decided_by(self, quantizer: str) -> tuple[str | None, dict[int, int]]:
        """Find the decision that sets a quantizer, and its option → the quantizer's width; None for a fixed one."""
        if quantizer in self.implied:
            source, mapping = self.implied[quantizer]
            decision, outer = self.decided_by(source)
            return decision, {option: mapping[width] for option, width in outer.items()}
        options = self.options[quantizer]
        return (quantizer if len(options) > 1 else None), {width: width for width in options}

    def groups(self) -> dict[str, dict[str, dict[int, int]]]:
        """Collect what decisions set: decision → quantizer, itself first → option of the decision → its width."""
        found: dict[str, dict[str, dict[int, int]]] = {name: {} for name in self.decisions}
        for name in (*self.decisions, *self.implied):
            decision, widths = self.decided_by(name)
            if decision is not None:
                found[decision][name] = widths
        return found

    def uniform(self, bits: int) -> Policy:
        """Return the policy nearest to one width.

        Each decision takes its widest option of at most `bits` that is legal.

        Where a relation forbids that next to earlier decisions, the next narrower one, then the next wider one.
        """
        known = {name: options[0] for name, options in self.options.items() if len(options) == 1}
        relations: dict[str, list[PairRelation]] = {}
        for relation in self.relations:
            for end in (relation.first, relation.second):
                relations.setdefault(end, []).append(relation)
        decided: dict[str, int] = {}
        for name, moved in self.groups().items():
            options = sorted(self.options[name], key=lambda width: (width > bits, abs(width - bits)))
            touched = [relation for quantizer in moved for relation in relations.get(quantizer, ())]
            sets = {width: {each: widths[width] for each, widths in moved.items()} for width in options}
            fitting = (width for width in options if self._fits({**known, **sets[width]}, touched))
            decided[name] = next(fitting, options[0])
            known |= sets[decided[name]]
        return self.complete(decided)

    def _fits(self, bits: Mapping[str, int], relations: Iterable[PairRelation]) -> bool:
        """Return whether bits leave every one of some relations a legal pair."""
        for relation in relations:
            first, second = (
                (bits[end],) if end in bits else self.options[end] for end in (relation.first, relation.second)
            )
            if not any((a, b) in relation.allowed for a in first for b in second):
                return False
        return True

    def explain(self, name: str) -> str:
        """Return why each excluded width of a quantizer is excluded, and what ties the quantizer to others."""
        lines = [self.fixed[name]] if name in self.fixed else []
        lines += [
            f"{width} bits: {reason}" for (quantizer, width), reason in self.excluded.items() if quantizer == name
        ]
        for relation in self.relations:
            if name in {relation.first, relation.second}:
                pairs = ", ".join(map(str, sorted(relation.allowed)))
                lines.append(f"node {relation.node!r} allows ({relation.first}, {relation.second}) in {pairs}")
        if name in self.implied:
            lines.append(f"follows from {self.implied[name][0]!r}")
        return "; ".join(lines) or "nothing restricts it"


def bit_constraints(module: Module, rules: OperandRules) -> BitConstraints:
    """Return the options, relations and implied quantizers of a network under a target's operand rules.

    Raises:
        QirError: no width remains for some quantizer; the message shows the conflicting nodes.
    """
    graph = module.graph
    found = quantizers(graph)
    if not found:
        raise QirError("the network has no fake-quant nodes: run the pass insert-fake-quant first")
    options = {name: set(quantizer.widths) for name, quantizer in found.items()}
    excluded: dict[tuple[str, int], str] = {}
    relations = _relations(graph, rules, options)
    fixed = {name: reason for name, quantizer in found.items() if (reason := quantizer.node.metadata.get(FIXED))}
    for name, reason in fixed.items():
        bits = found[name].bits
        if isinstance(bits, int):
            for width in options[name] - {bits}:
                excluded[name, width] = reason
            options[name] = {bits}
    for name, width, reason in _next_to_floats(graph, rules, options):
        excluded[name, width] = reason
        options[name].discard(width)
    prune(options, relations, excluded)
    ordered = {name: tuple(sorted(widths)) for name, widths in options.items()}
    return BitConstraints(ordered, tuple(relations), implied_by(ordered, relations), excluded, fixed)


def _relations(graph: Graph, rules: OperandRules, options: Mapping[str, set[int]]) -> list[PairRelation]:
    """Return legal pairs of every layer with quantized operands; equal widths where an op demands comparable grids."""
    found: dict[tuple[str, str], PairRelation] = {}
    for node in graph.walk():
        for first, second, pairs in (*_products(node, rules), *_equal_widths(node, rules, options)):
            if first == second:
                pairs = frozenset(p for p in pairs if p[0] == p[1])
            key = (first.name, second.name)
            known = found.get(key)
            found[key] = PairRelation(*key, pairs if known is None else known.allowed & pairs, node.name or node.op)
    return list(found.values())


Pairs = frozenset[tuple[int, int]]


def _products(node: Node, rules: OperandRules) -> Iterator[tuple[FakeQuant, FakeQuant, Pairs]]:
    """Yield quantizers of data and weight that a node multiplies, and the pairs of widths that it may."""
    operands, kernel = op_of(node).quantizable(node), op_of(node).float_kernel(node)
    indices = () if operands is None else ((operands.data, operands.weight),)
    for data_index, weight_index in indices if kernel is None else kernel.products:
        data, weight = quantizer_of(node.input(data_index)), quantizer_of(node.input(weight_index))
        if data is None and kernel is not None:
            data = quantizer_of(node.input(0))
        if data is not None and weight is not None:
            yield data, weight, rules.legal_pairs(node.op)


def _next_to_floats(
    graph: Graph, rules: OperandRules, options: Mapping[str, set[int]]
) -> Iterator[tuple[str, int, str]]:
    """Return widths that weights may not have next to float data, where the target computes on such at all, and why."""
    if FLOAT_BITS not in rules.activation_widths:
        return
    for node in graph.walk():
        operands = op_of(node).quantizable(node)
        weight = None if operands is None else quantizer_of(node.input(operands.weight))
        if operands is None or weight is None or quantizer_of(node.input(operands.data)) is not None:
            continue
        legal = {w for a, w in rules.legal_pairs(node.op) if a == FLOAT_BITS}
        for width in sorted(options[weight.name] - legal):
            yield weight.name, width, f"node {node.label!r} computes on float data, next to {sorted(legal)} bits"


def _equal_widths(
    node: Node, rules: OperandRules, options: Mapping[str, set[int]]
) -> Iterator[tuple[FakeQuant, FakeQuant, Pairs]]:
    """Additions where the target asks for equal widths; concatenations whose result no quantizer puts on one grid."""
    facts = op_of(node)
    if not facts.is_join:
        return
    tied = output_quantizer(node) is None if facts.is_movement else rules.add_requires_equal
    found = [made for value in node.inputs if (made := quantizer_of(value)) is not None] if tied else []
    for first, second in pairwise(found):
        if first != second:
            yield first, second, frozenset((w, w) for w in options[first.name] & options[second.name])


@dataclass(frozen=True)
class PropagateConstraints(Pass):
    """Narrow every quantizer's candidate widths to those that the target leaves, and set the widest policy.

    Verified IR in, verified IR out; needs `target`. Run it before calibration, so that only widths that can be chosen
    are calibrated.
    """

    name: ClassVar[str] = "propagate-constraints"

    def run(self, module: Module, context: PassContext) -> bool:
        """Narrow `widths`, then write the widest legal bits; raises `QirError` when no width remains."""
        target = context.require("target")
        constraints = bit_constraints(module, target.operand_rules())
        found = quantizers(module.graph)
        changed = False
        for name, options in constraints.options.items():
            if found[name].widths != options:
                found[name].widths = options
                changed = True
        widest = constraints.complete({name: constraints.options[name][-1] for name in constraints.decisions})
        for name, bits in widest.items():
            changed |= found[name].bits != bits
            found[name].bits = bits
        return changed
