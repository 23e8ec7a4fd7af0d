"""Patterns that look like the network they match: what a value must look like, and where a match stopped.

    x = any_value("x")
    gate = op("Clip", op("Add", x, number(3.0), commutes=True), number(0.0), number(6.0), only_use=True)
    hard_sigmoid = either(op("Div", gate, number(6.0)), op("Mul", gate, number(1 / 6), commutes=True))

A pattern lies in one graph: nodes of a subgraph and of the graph around it never match together.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from types import EllipsisType
from typing import Any

from qir.constants import constant_of, number_of
from qir.errors import QirError
from qir.graph import Graph, Node, Value

_SAME_DOMAIN = {"ai.onnx": ""}
_TOLERANCE = 1e-5
"""Relative difference up to which a number is the one that a pattern names: 1/6 is rounded in files."""


@dataclass(frozen=True, slots=True)
class Match:
    """Where a pattern matched: the root node, and values by the pattern's names."""

    root: Node
    values: Mapping[str, Value]

    def __getitem__(self, name: str) -> Value:
        return self.values[name]

    def node(self, name: str) -> Node:
        """Return the node that produces a named value; `QirError` when none does."""
        found = self.values[name].producer
        if found is None:
            raise QirError(f"the value {name!r} of the match is produced by no node")
        return found

    def number(self, name: str) -> float:
        """Return the number that a named value is; `QirError` when it is not one."""
        found = number_of(self.values[name])
        if found is None:
            raise QirError(f"the value {name!r} of the match is not a constant number")
        return found


@dataclass(frozen=True, eq=False)
class Pattern:
    """What a value must look like: produced by an op with such operands, a constant, or anything.

    Attributes:
        ops: names of ops of which one must produce the value; empty = any value.
        operands: patterns of the operands; None = operands are not looked at.
        more: operands may follow those that have a pattern.
        name: name under which the value is bound; a name that occurs twice must be the same value.
        domain: domain of the ops.
        attributes: numbers that attributes of the op must be.
        constant: the value must be a constant.
        number: the constant has one element, this number; NaN = any number.
        only_use: the value has no other use.
        commutes: the two operands may stand in either order.
        alternatives: other patterns of which one must match; nothing else is looked at then.
    """

    ops: tuple[str, ...] = ()
    operands: tuple[Pattern, ...] | None = None
    more: bool = False
    name: str = ""
    domain: str = ""
    attributes: Mapping[str, float] = field(default_factory=dict)
    constant: bool = False
    number: float | None = None
    only_use: bool = False
    commutes: bool = False
    alternatives: tuple[Pattern, ...] = ()

    @cached_property
    def roots(self) -> frozenset[str]:
        """The ops that may produce the value."""
        return frozenset(self.ops).union(*(other.roots for other in self.alternatives))

    @cached_property
    def depth(self) -> int:
        """Operand steps from the value to the farthest one that the pattern looks at."""
        below = [1 + operand.depth for operand in self.operands or ()]
        return max([0, *below, *(other.depth for other in self.alternatives)])

    @cached_property
    def inner(self) -> frozenset[str]:
        """The ops that stand below the value."""
        below = [operand.roots | operand.inner for operand in self.operands or ()]
        return frozenset[str]().union(*below, *(other.inner for other in self.alternatives))


def op(
    ops: str | tuple[str, ...],
    *operands: Pattern | EllipsisType,
    name: str = "",
    domain: str = "",
    attributes: Mapping[str, float] | None = None,
    only_use: bool = False,
    commutes: bool = False,
) -> Pattern:
    """Return a value produced by one of these ops.

    Without operand patterns the operands are not looked at; after a final `...` others may follow.
    """
    names = (ops,) if isinstance(ops, str) else ops
    wanted = tuple(operand for operand in operands if isinstance(operand, Pattern))
    return Pattern(
        names,
        wanted or None,
        more=len(wanted) < len(operands),
        name=name,
        domain=domain,
        attributes=attributes or {},
        only_use=only_use,
        commutes=commutes,
    )


def any_value(name: str = "", *, only_use: bool = False) -> Pattern:
    """Any value."""
    return Pattern(name=name, only_use=only_use)


def constant(name: str = "") -> Pattern:
    """Return a constant that no caller can replace."""
    return Pattern(name=name, constant=True)


def number(value: float = math.nan, name: str = "") -> Pattern:
    """Return a constant with one element, which is this number; without one, any number."""
    return Pattern(name=name, constant=True, number=value)


def either(*patterns: Pattern) -> Pattern:
    """Return what one of several patterns says, the first that matches preferred."""
    return Pattern(alternatives=patterns)


def through(step: Callable[[Pattern], Pattern], end: Pattern, most: int = 16) -> Pattern:
    """Return a chain: `end`, or up to `most` steps each around what comes before it."""
    chain = end
    for _ in range(most):
        chain = either(end, step(chain))
    return chain


@dataclass(frozen=True, slots=True)
class Explanation:
    """How far a rule got at a node.

    Attributes:
        matched: whether the rule would fire.
        depth: operand steps from the root to where the deepest attempt stopped.
        where: the node or value there.
        reason: why it stopped; empty when the rule fires.
    """

    matched: bool
    depth: int
    where: Node | Value | None
    reason: str

    def __str__(self) -> str:
        return "the rule applies" if self.matched else f"at {self.where} ({self.depth} below the root): {self.reason}"


Bound = dict[str, Value]


class Matcher:
    """Looks for a pattern, and remembers how far the deepest attempt got.

    Attributes:
        stop: where that was, and why it stopped there.
    """

    def __init__(self) -> None:
        self.stop = Explanation(matched=False, depth=-1, where=None, reason="")
        self._graph: Graph | None = None

    def matches(self, pattern: Pattern, node: Node) -> Iterator[Match]:
        """Yield every way in which a node's first result is what a pattern says."""
        self._graph = node.graph
        for option in pattern.alternatives or (pattern,):
            if option.alternatives:
                yield from self.matches(option, node)
            elif self._produces(option, node, 0):
                for bound in self._operands(option, node, {}, 0):
                    yield Match(node, {**bound, option.name: node.result} if option.name else bound)

    def note(self, depth: int, where: Node | Value | None, reason: str) -> None:
        """Remember where an attempt stopped when none got deeper."""
        if depth > self.stop.depth:
            self.stop = Explanation(matched=False, depth=depth, where=where, reason=reason)

    def _produces(self, pattern: Pattern, node: Node, depth: int) -> bool:
        if node.op not in pattern.ops or _SAME_DOMAIN.get(node.domain, node.domain) != pattern.domain:
            self.note(depth, node, f"found {node.op}; expected {' or '.join(pattern.ops)}")
            return False
        for name, wanted in pattern.attributes.items():
            if not _same(node.attribute(name), wanted):
                self.note(depth, node, f"found {name}={node.attribute(name)}; expected {wanted:g}")
                return False
        return bool(node.results)

    def _operands(self, pattern: Pattern, node: Node, bound: Bound, depth: int) -> Iterator[Bound]:
        wanted, found = pattern.operands, node.inputs
        if wanted is None:
            yield bound
            return
        if len(found) < len(wanted) or (len(found) > len(wanted) and not pattern.more):
            self.note(depth, node, f"found {len(found)} operands; expected {len(wanted)}")
            return
        yield from self._all(wanted, found, bound, depth + 1)
        if pattern.commutes and len(found) == 2:
            yield from self._all(wanted, found[::-1], bound, depth + 1)

    def _all(
        self, patterns: tuple[Pattern, ...], values: tuple[Value | None, ...], bound: Bound, depth: int
    ) -> Iterator[Bound]:
        if len(patterns) == 1:
            yield from self._one(patterns[0], values[0], bound, depth)
            return
        for found in self._one(patterns[0], values[0], bound, depth):
            yield from self._all(patterns[1:], values[1:], found, depth)

    def _one(self, pattern: Pattern, value: Value | None, bound: Bound, depth: int) -> Iterator[Bound]:
        if pattern.alternatives:
            for option in pattern.alternatives:
                yield from self._one(option, value, bound, depth)
            return
        reason = _refusal(pattern, value, bound)
        if reason or value is None:
            self.note(depth, value, reason)
            return
        inner = {**bound, pattern.name: value} if pattern.name else bound
        if not pattern.ops:
            yield inner
        elif (
            (node := value.producer) is not None and self._stands(node, depth) and self._produces(pattern, node, depth)
        ):
            yield from self._operands(pattern, node, inner, depth)

    def _stands(self, node: Node, depth: int) -> bool:
        if node.graph is self._graph:
            return True
        self.note(depth, node, "it stands in the graph around that of the root")
        return False


def _refusal(pattern: Pattern, value: Value | None, bound: Bound) -> str:
    if value is None:
        return "the operand is left out"
    if bound.get(pattern.name, value) is not value:
        return f"found %{value.name}; expected %{bound[pattern.name].name} again, as {pattern.name!r}"
    if pattern.constant and constant_of(value) is None:
        return f"%{value.name} is not a constant"
    if pattern.number is not None:
        found = number_of(value)
        if found is None or not _same(found, pattern.number):
            wanted = "one number" if math.isnan(pattern.number) else f"{pattern.number:g}"
            return f"%{value.name} is {'not a number' if found is None else f'{found:g}'}; expected {wanted}"
    if pattern.only_use and len(value._uses) != 1:
        return f"%{value.name} has {len(value.uses)} uses; expected one"
    if pattern.ops and (value.producer is None or value.index != 0):
        return f"%{value.name} is not the first result of {' or '.join(pattern.ops)}"
    return ""


def _same(found: Any, wanted: float) -> bool:
    return found is not None and (math.isnan(wanted) or math.isclose(found, wanted, rel_tol=_TOLERANCE))
