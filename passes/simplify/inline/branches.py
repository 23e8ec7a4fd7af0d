"""The branch of an If whose condition is known, in place of the If."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

from qir.constants import require_array
from qir.graph import Graph, Node, Value
from qir.module import Module
from qir.passes.analysis.constants import array_of, is_standard
from qir.passes.infrastructure.contract import Pass, PassContext
from qir.passes.simplify.eliminate.identities import EliminateIdentities
from qir.passes.simplify.fold.constants import FoldConstants
from qir.passes.simplify.infer_types import InferTypes
from qir.passes.simplify.inline.inlining import inline


@dataclass(frozen=True)
class InlineBranches(Pass):
    """Replace every If whose condition is constant by the nodes of the branch that is taken.

    Conditions become constant by `fold-constants`, where they ask for shapes that are known or for inputs that
    `freeze-inputs` has made constant. What a branch uncovers is folded and inlined in turn. Verified IR in, verified
    IR out.
    """

    name: ClassVar[str] = "inline-branches"

    def run(self, module: Module, context: PassContext) -> bool:
        """Inline; True when an If was replaced."""
        changed = False
        while self._sweep(module):
            changed = True
            for step in (EliminateIdentities(), FoldConstants(), InferTypes(), FoldConstants()):
                context.run(step, module)
        return changed

    def _sweep(self, module: Module) -> bool:
        found = [
            node
            for graph in module.graphs
            for node in graph.walk()
            if is_standard(node, "If") and array_of(node.input(0)) is not None
        ]
        names = Counter(value.name for graph in module.graphs for value in _values(graph)) if found else Counter()
        for node in found:
            if _stands_in(module, node):
                _inline(node, names)
        return bool(found)


def _values(graph: Graph) -> Iterator[Value]:
    """Yield every value of a graph and its subgraphs."""
    yield from graph.values()
    for node in graph:
        for inner in node.subgraphs():
            yield from _values(inner)


def _stands_in(module: Module, node: Node) -> bool:
    """Return whether a node is still part of a module: an If around it may be gone."""
    graph = node.graph
    while graph is not None and graph.parent is not None:
        graph = graph.parent.graph
    return graph is not None and any(graph is own for own in module.graphs)


def _inline(node: Node, names: Counter[str]) -> None:
    """Put a branch in the place of its If; `names` counts the values of the module by name."""
    condition = require_array(node.operand(0))
    branch: Graph = node.attribute("then_branch" if bool(condition.reshape(-1)[0]) else "else_branch")
    constants = [value.name for value in branch.constants]
    for value in [value for graph in node.subgraphs() for value in _values(graph)]:
        names[value.name] -= 1
        if names[value.name] < 1:
            del names[value.name]
    made = inline(node, branch, {}, names)
    names.update(constants)
    names.update(value.name for copy in made for value in copy.results)
    names.update(value.name for copy in made for graph in copy.subgraphs() for value in _values(graph))
