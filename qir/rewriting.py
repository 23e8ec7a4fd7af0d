"""Rewriting by rules: patterns over producers, a worklist with a bound, and an explanation when a rule does not fire.

Rule(
    name="relu-of-relu",
    pattern=op("Relu", op("Relu", any_value("x"))),
    rewrite=lambda match, rewriter: rewriter.replace(match.root, [Node("Relu", [match["x"]])]),
)
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from functools import partial

from qir.collection import no_collection
from qir.errors import QirError
from qir.graph import Graph, Node, Value

RULE_KEY = "qir.rule"
"""Metadata key under which new nodes name the rule that made them."""


Plan = Callable[["Rewriter"], None]
"""What changes the graph."""

_SAME_DOMAIN = {"ai.onnx": ""}


@dataclass(frozen=True, slots=True)
class Reject:
    """Why a rule does not apply although its pattern matches."""

    reason: str


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


class _Matcher:
    def __init__(self) -> None:
        self.stop = Explanation(matched=False, depth=-1, where=None, reason="")

    def root(self, rule: Rule, node: Node) -> Plan | None:
        if not self.ops(rule.pattern, node, 0):
            return None
        for bound in self.operands(rule.pattern, node, {}, 0):
            if rule.pattern.name:
                bound = {**bound, rule.pattern.name: node.result}
            found = rule.planned(Match(node, bound))
            if not isinstance(found, Reject):
                return found
            self.note(99, node, found.reason)
        return None

    def note(self, depth: int, where: Node | Value | None, reason: str) -> None:
        if depth > self.stop.depth:
            self.stop = Explanation(matched=False, depth=depth, where=where, reason=reason)

    def ops(self, pattern: Pattern, node: Node, depth: int) -> bool:
        if node.op in pattern.ops and _SAME_DOMAIN.get(node.domain, node.domain) == pattern.domain and node.results:
            return True
        self.note(depth, node, f"found {node.op}; expected {' or '.join(pattern.ops)}")
        return False

    def operands(self, pattern: Pattern, node: Node, bound: dict[str, Value], depth: int) -> Iterator[dict[str, Value]]:
        wanted = pattern.operands
        if wanted is None:
            yield bound
            return
        if len(node.inputs) != len(wanted):
            self.note(depth, node, f"found {len(node.inputs)} operands; expected {len(wanted)}")
            return
        yield from self.all(wanted, node.inputs, bound, depth + 1)
        if pattern.commutes and len(wanted) == 2:
            yield from self.all(wanted, node.inputs[::-1], bound, depth + 1)

    def all(
        self, patterns: tuple[Pattern, ...], values: tuple[Value | None, ...], bound: dict[str, Value], depth: int
    ) -> Iterator[dict[str, Value]]:
        if not patterns:
            yield bound
            return
        for found in self.one(patterns[0], values[0], bound, depth):
            yield from self.all(patterns[1:], values[1:], found, depth)

    def one(
        self, pattern: Pattern, value: Value | None, bound: dict[str, Value], depth: int
    ) -> Iterator[dict[str, Value]]:
        reason = _refusal(pattern, value, bound)
        if reason or value is None:
            self.note(depth, value, reason)
            return
        inner = {**bound, pattern.name: value} if pattern.name else bound
        if not pattern.ops:
            yield inner
        elif value.producer is not None and self.ops(pattern, value.producer, depth):
            yield from self.operands(pattern, value.producer, inner, depth)


def _refusal(pattern: Pattern, value: Value | None, bound: dict[str, Value]) -> str:
    if value is None:
        return "the operand is left out"
    if bound.get(pattern.name, value) is not value:
        return f"found %{value.name}; expected %{bound[pattern.name].name} again, as {pattern.name!r}"
    if pattern.constant and not value.is_constant:
        return f"%{value.name} is no constant"
    if pattern.only_use and len(value.uses) != 1:
        return f"%{value.name} has {len(value.uses)} uses; expected one"
    if pattern.ops and (value.producer is None or value.index != 0):
        return f"%{value.name} is not the first result of {' or '.join(pattern.ops)}"
    return ""


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
            plan = None if node.graph is None else _Matcher().root(rule, node)
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


def explain(rule: Rule, node: Node) -> Explanation:
    """The deepest partial match of a rule at a node, and why it stopped there; the graph is not changed."""
    matcher = _Matcher()
    if matcher.root(rule, node) is not None:
        return Explanation(matched=True, depth=0, where=node, reason="")
    return matcher.stop
