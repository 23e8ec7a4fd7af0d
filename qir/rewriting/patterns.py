"""Patterns over producers: what a value must look like, the ways in which it does, and where a match stopped."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from qir.errors import QirError
from qir.graph import Node, Value

_SAME_DOMAIN = {"ai.onnx": ""}


@dataclass(frozen=True, slots=True)
class Match:
    """Where a pattern matched: the root node, and values by the pattern's names."""

    root: Node
    values: dict[str, Value]

    def __getitem__(self, name: str) -> Value:
        return self.values[name]

    def node(self, name: str) -> Node:
        """The node that produces a named value; `QirError` when none does."""
        found = self.values[name].producer
        if found is None:
            raise QirError(f"the value {name!r} of the match is produced by no node")
        return found


@dataclass(frozen=True, slots=True)
class Pattern:
    """What a value must look like: produced by an op with such operands, a constant, or anything.

    Attributes:
        ops: names of ops of which one must produce the value; empty = any value.
        operands: patterns of the operands; None = operands are not looked at.
        name: name under which the value is bound; a name that occurs twice must be the same value.
        domain: domain of the ops.
        constant: the value must be a constant.
        only_use: the value has no other use.
        commutes: the two operands may stand in either order.
    """

    ops: tuple[str, ...] = ()
    operands: tuple[Pattern, ...] | None = None
    name: str = ""
    domain: str = ""
    constant: bool = False
    only_use: bool = False
    commutes: bool = False


def op(
    ops: str | tuple[str, ...],
    *operands: Pattern,
    name: str = "",
    domain: str = "",
    only_use: bool = False,
    commutes: bool = False,
) -> Pattern:
    """A value produced by one of these ops; without operand patterns the operands are not looked at."""
    names = (ops,) if isinstance(ops, str) else ops
    return Pattern(names, operands or None, name, domain, only_use=only_use, commutes=commutes)


def any_value(name: str = "") -> Pattern:
    """Any value."""
    return Pattern(name=name)


def constant(name: str = "") -> Pattern:
    """A constant that no caller can replace."""
    return Pattern(name=name, constant=True)


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


class Matcher:
    """Looks for a pattern, and remembers how far the deepest attempt got.

    Attributes:
        stop: where that was, and why it stopped there.
    """

    def __init__(self) -> None:
        self.stop = Explanation(matched=False, depth=-1, where=None, reason="")

    def matches(self, pattern: Pattern, node: Node) -> Iterator[Match]:
        """Every way in which a node's first result is what a pattern says."""
        if not self._produces(pattern, node, 0):
            return
        for bound in self._operands(pattern, node, {}, 0):
            yield Match(node, {**bound, pattern.name: node.result} if pattern.name else bound)

    def note(self, depth: int, where: Node | Value | None, reason: str) -> None:
        """Remember where an attempt stopped when none got deeper."""
        if depth > self.stop.depth:
            self.stop = Explanation(matched=False, depth=depth, where=where, reason=reason)

    def _produces(self, pattern: Pattern, node: Node, depth: int) -> bool:
        if node.op in pattern.ops and _SAME_DOMAIN.get(node.domain, node.domain) == pattern.domain and node.results:
            return True
        self.note(depth, node, f"found {node.op}; expected {' or '.join(pattern.ops)}")
        return False

    def _operands(
        self, pattern: Pattern, node: Node, bound: dict[str, Value], depth: int
    ) -> Iterator[dict[str, Value]]:
        wanted = pattern.operands
        if wanted is None:
            yield bound
            return
        if len(node.inputs) != len(wanted):
            self.note(depth, node, f"found {len(node.inputs)} operands; expected {len(wanted)}")
            return
        yield from self._all(wanted, node.inputs, bound, depth + 1)
        if pattern.commutes and len(wanted) == 2:
            yield from self._all(wanted, node.inputs[::-1], bound, depth + 1)

    def _all(
        self, patterns: tuple[Pattern, ...], values: tuple[Value | None, ...], bound: dict[str, Value], depth: int
    ) -> Iterator[dict[str, Value]]:
        if not patterns:
            yield bound
            return
        for found in self._one(patterns[0], values[0], bound, depth):
            yield from self._all(patterns[1:], values[1:], found, depth)

    def _one(
        self, pattern: Pattern, value: Value | None, bound: dict[str, Value], depth: int
    ) -> Iterator[dict[str, Value]]:
        reason = _refusal(pattern, value, bound)
        if reason or value is None:
            self.note(depth, value, reason)
            return
        inner = {**bound, pattern.name: value} if pattern.name else bound
        if not pattern.ops:
            yield inner
        elif value.producer is not None and self._produces(pattern, value.producer, depth):
            yield from self._operands(pattern, value.producer, inner, depth)


def _refusal(pattern: Pattern, value: Value | None, bound: dict[str, Value]) -> str:
    if value is None:
        return "the operand is left out"
    if bound.get(pattern.name, value) is not value:
        return f"found %{value.name}; expected %{bound[pattern.name].name} again, as {pattern.name!r}"
    if pattern.constant and not value.is_constant:
        return f"%{value.name} is not a constant"
    if pattern.only_use and len(value.uses) != 1:
        return f"%{value.name} has {len(value.uses)} uses; expected one"
    if pattern.ops and (value.producer is None or value.index != 0):
        return f"%{value.name} is not the first result of {' or '.join(pattern.ops)}"
    return ""
