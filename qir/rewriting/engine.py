"""Rewriting by rules: patterns over producers, a worklist with a bound, and an explanation when a rule does not fire.

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

from qir.errors import QirError
from qir.graph import Graph, Node, Value
from qir.rewriting.patterns import Explanation, Match, Matcher, Pattern, any_value, constant, op
from qir.support.collection import no_collection

__all__ = [
    "RULE_KEY",
    "Explanation",
    "Match",
    "Pattern",
    "Plan",
    "Reject",
    "Rewriter",
    "Rule",
    "any_value",
    "constant",
    "explain",
    "op",
    "rewrite",
]

RULE_KEY = "qir.rule"
"""Metadata key under which new nodes name the rule that made them."""


Plan = Callable[["Rewriter"], None]
"""What changes the graph."""

REJECTED_DEPTH = 99
"""How deep a rule that matched and was rejected counts in an explanation: deeper than any partial match."""


@dataclass(frozen=True, slots=True)
class Reject:
    """Why a rule does not apply although its pattern matches."""

    reason: str


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
        if not self.pattern.ops:
            raise QirError(f"rule {self.name!r}: the root of its pattern names no op; expected op(...)")
        if (self.rewrite is None) == (self.plan is None):
            raise QirError(f"rule {self.name!r}: expected either `rewrite` or `plan`")

    def planned(self, match: Match) -> Reject | Plan:
        """What changes the graph at a match, or why the rule does not apply."""
        rejected = self.check(match)
        if rejected is not None:
            return rejected
        if self.plan is not None:
            return self.plan(match)
        assert self.rewrite is not None  # noqa: S101 - one of the two is given
        return partial(self.rewrite, match)


class Rewriter:
    """What a rule changes the graph with: new nodes are marked with the rule's name and looked at again."""

    def __init__(self, rule: Rule, pending: Callable[[Iterable[Node]], None]) -> None:
        self._rule = rule
        self._pending = pending

    def insert(self, node: Node, *, before: Node) -> Node:
        """Insert a node before another one, marked with the rule."""
        if before.graph is None:
            raise QirError(f"rule {self._rule.name!r}: node {before} stands in no graph")
        node.metadata[RULE_KEY] = self._rule.name
        before.graph.insert(node, before=before)
        self._pending((node, *(v.producer for v in node.operands if v.producer is not None)))
        return node

    def replace(self, node: Node, nodes: Iterable[Node], results: Iterable[Value] | None = None) -> None:
        """Put nodes in the place of one, and erase it with the producers that nothing uses any more.

        The new values take the names and types of the old ones.

        Args:
            node: the node that goes.
            nodes: new nodes in order; the last one's results replace those of `node` unless `results` are given.
            results: what replaces each result of `node`.
        """
        made = tuple(nodes)
        for new in made:
            new.metadata = {**node.metadata, **new.metadata}
            self.insert(new, before=node)
        found = tuple(results) if results is not None else (made[-1].results if made else ())
        if len(found) != len(node.results):
            raise QirError(f"rule {self._rule.name!r}: {len(found)} results replace the {len(node.results)} of {node}")
        for old, new_value in zip(node.results, found, strict=True):
            self._pending(use for use in old.users if not use.is_return)
            old.replace_all_uses_with(new_value)
            if new_value.producer in made:
                new_value.type = old.type
                name, old.name = old.name, ""
                new_value.name = name
        self.erase(node)

    def erase(self, node: Node) -> None:
        """Erase a node whose results are unused, and the producers that only it used."""
        todo = [node]
        while todo:
            gone = todo.pop()
            if gone.graph is None or any(value._uses for value in gone.results):
                continue
            producers = dict.fromkeys(v.producer for v in gone.operands if v.producer is not None)
            gone.graph.erase(gone)
            todo += producers
            self._pending(producers)


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
    by_root: dict[str, list[Rule]] = {}
    for rule in rules:
        if opset is None or rule.since <= opset:
            for name in rule.pattern.ops:
                by_root.setdefault(name, []).append(rule)
    with no_collection():
        return _work_off(deque(node for node in graph.walk() if node.op in by_root), by_root, limit)


def _work_off(queue: deque[Node], by_root: dict[str, list[Rule]], limit: int | None) -> dict[str, int]:
    waiting = set(queue)
    most = 10 * len(waiting) + 100 if limit is None else limit
    fired: dict[str, int] = {}

    def push(nodes: Iterable[Node]) -> None:
        for node in nodes:
            if node.op in by_root and node not in waiting:
                waiting.add(node)
                queue.append(node)

    while queue:
        node = queue.popleft()
        waiting.discard(node)
        for rule in by_root[node.op]:
            plan = None if node.graph is None else _planned(rule, node, Matcher())
            if plan is None:
                continue
            if sum(fired.values()) >= most:
                raise QirError(
                    f"rewriting: stopped after {most} rewrites, the last by {rule.name!r}: do rules undo one another?"
                )
            fired[rule.name] = fired.get(rule.name, 0) + 1
            plan(Rewriter(rule, push))
            push((node,) if node.graph is not None else ())
            break
    return fired


def _planned(rule: Rule, node: Node, matcher: Matcher) -> Plan | None:
    """What the rule does at its first match that it does not reject, None where there is none."""
    for match in matcher.matches(rule.pattern, node):
        found = rule.planned(match)
        if not isinstance(found, Reject):
            return found
        matcher.note(REJECTED_DEPTH, node, found.reason)
    return None


def explain(rule: Rule, node: Node) -> Explanation:
    """The deepest partial match of a rule at a node, and why it stopped there; the graph is not changed."""
    matcher = Matcher()
    if _planned(rule, node, matcher) is not None:
        return Explanation(matched=True, depth=0, where=node, reason="")
    return matcher.stop
