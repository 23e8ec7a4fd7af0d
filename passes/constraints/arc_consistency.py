"""Arc consistency of bit widths: which widths of two related quantizers remain, and which follow from another.

Widths without a legal partner are dropped until nothing changes (Mackworth, 1977, AC-3); a quantizer with one legal
width for every width of another is implied by it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise

from qir.errors import QirError


@dataclass(frozen=True, slots=True)
class PairRelation:
    """The bits of two quantizers that may stand together, and the node that asks for it."""

    first: str
    second: str
    allowed: frozenset[tuple[int, int]]
    node: str


@dataclass(frozen=True, slots=True)
class _Cause:
    """Why a width is gone: the node that has no pair for it with what its partner has left."""

    node: str
    partner: str


def prune(options: dict[str, set[int]], relations: list[PairRelation], excluded: dict[tuple[str, int], str]) -> None:
    """Drop every width that no partner supports, until nothing changes; the reasons go to `excluded`.

    Args:
        options: quantizer → widths that remain, narrowed in place.
        relations: pairs of quantizers and the widths that may stand together.
        excluded: (quantizer, width) → why that width is impossible, extended in place.

    Raises:
        QirError: no width remains for some quantizer; the message shows the conflicting path.
    """
    by_name: dict[str, list[PairRelation]] = {name: [] for name in options}
    for relation in relations:
        by_name[relation.first].append(relation)
        by_name[relation.second].append(relation)
    causes: dict[tuple[str, int], _Cause] = {}
    queue = deque(relations)
    while queue:
        relation = queue.popleft()
        live = {(a, b) for a, b in relation.allowed if a in options[relation.first] and b in options[relation.second]}
        for name, supported in ((relation.first, {a for a, _ in live}), (relation.second, {b for _, b in live})):
            lost = options[name] - supported
            if not lost:
                continue
            partner = relation.second if name == relation.first else relation.first
            for width in lost:
                causes[name, width] = _Cause(relation.node, partner)
                excluded[name, width] = (
                    f"node {relation.node!r} has no legal pair with {partner!r} at {sorted(options[partner])} bits"
                )
            if not supported:
                raise QirError(_conflict(name, relation, options, excluded, causes))
            options[name] = options[name] & supported
            queue.extend(by_name[name])


def _conflict(
    name: str,
    relation: PairRelation,
    options: Mapping[str, set[int]],
    excluded: Mapping[tuple[str, int], str],
    causes: Mapping[tuple[str, int], _Cause],
) -> str:
    reasons = "; ".join(
        f"{width} bits: {reason}" for (quantizer, width), reason in excluded.items() if quantizer == name
    )
    paths = "; ".join(_paths(name, options, excluded, causes))
    return (
        f"quantizer {name!r}: no width remains ({reasons}); node {relation.node!r} allows only "
        f"{sorted(relation.allowed)}; conflicting path: {paths}: give the target another pair, or free a quantizer "
        "that is fixed"
    )


def _paths(
    name: str,
    options: Mapping[str, set[int]],
    excluded: Mapping[tuple[str, int], str],
    causes: Mapping[tuple[str, int], _Cause],
) -> list[str]:
    """From a quantizer without a width through the nodes that took its widths to what these follow from."""
    import networkx as nx

    follows: nx.DiGraph[str] = nx.DiGraph()
    follows.add_node(name)
    for (quantizer, _), cause in causes.items():
        follows.add_edge(quantizer, cause.partner, node=cause.node)
    found = []
    for end, path in nx.single_source_shortest_path(follows, name).items():
        if not follows.out_degree(end):
            steps = "".join(f" ← {follows.edges[a, b]['node']} ← {b}" for a, b in pairwise(path))
            fixed = next((reason for (own, _), reason in excluded.items() if own == end), "its candidates")
            found.append(f"{name}{steps} at {sorted(options[end])} bits ({fixed})")
    return found


def implied_by(
    options: Mapping[str, tuple[int, ...]], relations: list[PairRelation]
) -> dict[str, tuple[str, dict[int, int]]]:
    """Return quantizers that follow from another.

    The weight from the activation, else the activation from the weight.
    """
    implied: dict[str, tuple[str, dict[int, int]]] = {}

    def depends(name: str, on: str) -> bool:
        while name in implied:
            name = implied[name][0]
            if name == on:
                return True
        return name == on

    for relation in relations:
        for source, follower, flipped in (
            (relation.first, relation.second, False),
            (relation.second, relation.first, True),
        ):
            if source == follower or follower in implied or len(options[follower]) < 2 or depends(source, follower):
                continue
            pairs = [(b, a) if flipped else (a, b) for a, b in relation.allowed]
            mapping = {a: [b for x, b in pairs if x == a and b in options[follower]] for a in options[source]}
            if all(len(found) == 1 for found in mapping.values()):
                implied[follower] = (source, {a: found[0] for a, found in mapping.items()})
                break
    return implied
