"""Rewriting by rules: patterns, a worklist that hears of every change, and an explanation when a rule does not fire.

Rule(
    name="relu-of-relu",
    pattern=op("Relu", op("Relu", any_value("x"))),
    rewrite=lambda match, rewriter: rewriter.replace(match.root, [Node("Relu", [match["x"]])]),
)
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import partial
from typing import Protocol

from qir.errors import QirError
from qir.graph import Graph, Node, Use, Value
from qir.rewriting.patterns import (
    Explanation,
    Match,
    Matcher,
    Pattern,
    any_value,
    constant,
    either,
    number,
    op,
    through,
)
from qir.support.collection import no_collection
from qir.types import UnknownType

__all__ = [
    "RULE_KEY",
    "Explanation",
    "Listener",
    "Match",
    "Pattern",
    "Plan",
    "Reject",
    "Rewriter",
    "Rule",
    "any_value",
    "constant",
    "either",
    "explain",
    "number",
    "op",
    "rewrite",
    "through",
]

RULE_KEY = "qir.rule"
"""Metadata key under which new nodes name the rule that made them."""


Plan = Callable[["Rewriter"], None]
"""What changes the graph."""

_FEW = 4
"""Uses that a value of a match may have where the match must hold them all; it is not looked at while it has more."""

REJECTED_DEPTH = 99
"""How deep a rule that matched and was rejected counts in an explanation: deeper than any partial match."""


@dataclass(frozen=True, slots=True)
class Reject:
    """Why a rule does not apply although its pattern matches, and the node or value that is the reason."""

    reason: str
    where: Node | Value | None = None


def _applies(_: Match) -> Reject | None:
    return None


@dataclass(frozen=True)
class Rule:
    """One rewrite.

    A rule says what to do by `rewrite`, or, where that follows from what a check finds out, by `plan`.

    Attributes:
        name: what it does, in kebab-case.
        pattern: what the root's first result looks like; its ops are the roots of the rule.
        rewrite: changes the graph at a match, through the `Rewriter`.
        check: what the pattern cannot say: a `Reject` with the reason, or None when the rule applies.
        plan: check and rewrite in one: a `Reject`, or what changes the graph; the graph is not changed before that.
        since: version of ONNX's operator set from which the rule applies.
    """

    name: str
    pattern: Pattern
    rewrite: Callable[[Match, Rewriter], None] | None = None
    check: Callable[[Match], Reject | None] = field(default=_applies)
    plan: Callable[[Match], Reject | Plan] | None = None
    since: int = 1

    def __post_init__(self) -> None:
        if not self.pattern.roots:
            raise QirError(f"rule {self.name!r}: the root of its pattern names no op; expected op(...)")
        if (self.rewrite is None) == (self.plan is None):
            raise self._undecided()

    def planned(self, match: Match) -> Reject | Plan:
        """Return what changes the graph at a match, or why the rule does not apply."""
        rejected = self.check(match)
        if rejected is not None:
            return rejected
        if self.plan is not None:
            return self.plan(match)
        if self.rewrite is None:
            raise self._undecided()
        return partial(self.rewrite, match)

    def _undecided(self) -> QirError:
        return QirError(f"rule {self.name!r}: expected either `rewrite` or `plan`")


class Listener(Protocol):
    """What is told of every change that goes through a `Rewriter`."""

    def node_changed(self, node: Node) -> None:
        """Take note of a node that is new, or whose operands or attributes are others."""

    def value_changed(self, value: Value) -> None:
        """Take note of a value that is made in another way, has another type, or lost uses."""


class _NoOne:
    """The listener of a change that no worklist waits for."""

    def node_changed(self, node: Node) -> None:
        pass

    def value_changed(self, value: Value) -> None:
        pass


class Rewriter:
    """What a rule changes the graph with: new nodes are marked with its name, and a listener hears of it all.

    Passes that walk the graph themselves, each node once, change it through one of their own name.

    Args:
        by: name of the rule or pass.
        listener: what is told of every change.
    """

    def __init__(self, by: str, listener: Listener | None = None) -> None:
        self._by = by
        self._listener: Listener = _NoOne() if listener is None else listener

    def insert(self, node: Node, *, before: Node | None = None, after: Node | None = None) -> Node:
        """Insert a node before or after another one, marked with the rule."""
        place = before if after is None else after
        graph = None if place is None else place.graph
        if graph is None:
            raise QirError(f"rule {self._by!r}: node {place} stands in no graph")
        node.metadata[RULE_KEY] = self._by
        graph.insert(node, before=before, after=after)
        self._listener.node_changed(node)
        return node

    def redirect(self, uses: Iterable[Use], value: Value) -> None:
        """Let operands read another value."""
        for use in uses:
            self.modify(use.node, partial(use.node.set_input, use.index, value))

    def modify(self, node: Node, change: Callable[[], object]) -> None:
        """Change a node that stays: `change` writes its attributes, operands, constants, or nodes that belong to it."""
        before = node.operands
        change()
        self._listener.node_changed(node)
        for value in node.results:
            self._listener.value_changed(value)
        for value in before:
            self._unused(value)

    def replace(self, node: Node, nodes: Iterable[Node], results: Iterable[Value] | None = None) -> None:
        """Put nodes in the place of one, and erase it with the producers and constants that nothing uses any more.

        New values take the names and types of the old ones, the last new node the name of `node` unless it has its own;
        a value that was there before takes the type when its own is unknown; a quantizer's result derives its own.

        Args:
            node: the node that goes.
            nodes: new nodes in order; the last one's results replace those of `node` unless `results` are given.
            results: what replaces each result of `node`.
        """
        made = tuple(nodes)
        found = tuple(results) if results is not None else (made[-1].results if made else ())
        if len(found) != len(node.results):
            raise QirError(f"rule {self._by!r}: {len(found)} results replace the {len(node.results)} of {node}")
        for old, value in zip(node.results, found, strict=True):
            if value.producer in made:
                value.type = old.type
                value.name, old.name = old.name, ""
            elif isinstance(value.type, UnknownType) and (value.producer is None or not value.producer.is_fake_quant):
                value.type = old.type
        for new in made:
            new.metadata = {**node.metadata, **new.metadata}
            if new is made[-1] and not new.name:
                new.name = node.name
            self.insert(new, before=node)
        for old, value in zip(node.results, found, strict=True):
            old.replace_all_uses_with(value)
            self._listener.value_changed(value)
        self.erase(node)

    def erase(self, node: Node) -> None:
        """Erase a node whose results are unused, and the producers and constants that only it used."""
        todo = [node]
        while todo:
            gone = todo.pop()
            if gone.graph is None or any(value._uses for value in gone.results):
                continue
            operands = dict.fromkeys(gone.operands)
            for graph in gone.subgraphs():
                operands.update(
                    dict.fromkeys(v for inner in (*graph.walk(), graph.return_node) for v in inner.operands)
                )
            gone.graph.erase(gone)
            for value in operands:
                self._unused(value)
                if value.producer is not None:
                    todo.append(value.producer)
                elif value.is_constant and not value._uses and isinstance(value.owner, Graph):
                    value.owner.remove_constant(value)

    def _unused(self, value: Value) -> None:
        """Tell that a value lost a use, where that can matter: patterns ask for one use, or those of the match."""
        if len(value._uses) <= _FEW:
            self._listener.value_changed(value)


def rewrite(
    graph: Graph, rules: Iterable[Rule], *, limit: int | None = None, opset: int | None = None
) -> dict[str, int]:
    """Apply rules to a graph and its subgraphs until none fires; the first rule that matches a node wins.

    Args:
        graph: changed in place.
        rules: in order of preference.
        limit: most rewrites; by default 10 for each node, and 100.
        opset: version of ONNX's operator set; rules from a later one are left out. None applies all.

    Returns:
        How often each rule fired, rules that never did left out.

    Raises:
        QirError: the limit was reached: rules that undo one another never end.
    """
    with no_collection():
        return _Worklist(graph, [rule for rule in rules if opset is None or rule.since <= opset]).work_off(limit)


class _Worklist:
    """The nodes that a rule may match: all roots at first, then those above whatever changes.

    A change can make a pattern match at any node that reads the changed value through ops that stand inside a pattern,
    as far away as that pattern is deep; all of those are looked at again, so that one pass over the list is enough.
    """

    def __init__(self, graph: Graph, rules: Iterable[Rule]) -> None:
        self._rules: dict[str, list[Rule]] = {}
        self._deepest: dict[str, int] = {}
        for rule in rules:
            for name in sorted(rule.pattern.roots):
                self._rules.setdefault(name, []).append(rule)
            for name in rule.pattern.inner:
                self._deepest[name] = max(self._deepest.get(name, 0), rule.pattern.depth)
        self._queue = deque(node for node in graph.walk() if node.op in self._rules)
        self._waiting = set(self._queue)

    def node_changed(self, node: Node) -> None:
        """Look at the node again."""
        if node.op in self._rules and node not in self._waiting:
            self._waiting.add(node)
            self._queue.append(node)

    def value_changed(self, value: Value) -> None:
        """Look again at the nodes whose pattern may contain the value."""
        level, depth = {value: None}, 0
        while level:
            depth += 1
            above: dict[Value, None] = {}
            for found in level:
                for node, _ in found._uses:
                    self.node_changed(node)
                    if self._deepest.get(node.op, 0) > depth:
                        above.update(dict.fromkeys(node.results))
            level = above

    def work_off(self, limit: int | None) -> dict[str, int]:
        """Rewrite until no node waits; how often each rule fired."""
        most = 10 * len(self._waiting) + 100 if limit is None else limit
        fired: dict[str, int] = {}
        count = 0
        while self._queue:
            node = self._queue.popleft()
            self._waiting.discard(node)
            for rule in self._rules[node.op]:
                plan = None if node.graph is None else _planned(rule, node, Matcher())
                if plan is None:
                    continue
                count += 1
                if count > most:
                    raise QirError(
                        f"rewriting: stopped after {most} rewrites, the last by {rule.name!r}: "
                        "do rules undo one another?"
                    )
                fired[rule.name] = fired.get(rule.name, 0) + 1
                plan(Rewriter(rule.name, self))
                break
        return fired


def _planned(rule: Rule, node: Node, matcher: Matcher) -> Plan | None:
    """Return what the rule does at its first match that it does not reject, None where there is none."""
    for match in matcher.matches(rule.pattern, node):
        found = rule.planned(match)
        if not isinstance(found, Reject):
            return found
        matcher.note(REJECTED_DEPTH, node if found.where is None else found.where, found.reason)
    return None


def explain(rule: Rule, node: Node) -> Explanation:
    """Return the deepest partial match of a rule at a node, and why it stopped there; the graph is not changed."""
    matcher = Matcher()
    if _planned(rule, node, matcher) is not None:
        return Explanation(matched=True, depth=0, where=node, reason="")
    return matcher.stop
