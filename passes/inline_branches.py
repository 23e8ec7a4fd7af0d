"""The branch of an If whose condition is known, in place of the If."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from qir.cloning import clone_node
from qir.graph import Graph, Node, Value
from qir.module import Module
from qir.passes.constants import array_of, erase, is_standard
from qir.passes.eliminate_identities import EliminateIdentities
from qir.passes.fold_constants import FoldConstants
from qir.passes.infer_types import InferTypes
from qir.passes.manager import Pass, PassContext
from qir.types import UnknownType


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
                step.run(module, context)
        return changed

    def _sweep(self, module: Module) -> bool:
        found = [
            node
            for graph in module.graphs
            for node in graph.walk()
            if is_standard(node, "If") and array_of(node.input(0)) is not None
        ]
        for node in found:
            if _stands_in(module, node):
                _inline(module, node)
        return bool(found)


def _stands_in(module: Module, node: Node) -> bool:
    """Whether a node is still part of a module: an If around it may be gone."""
    graph = node.graph
    while graph is not None and graph.parent is not None:
        graph = graph.parent.graph
    return graph is not None and any(graph is own for own in module.graphs)


def _inline(module: Module, node: Node) -> None:
    condition, graph = array_of(node.input(0)), node.graph
    assert condition is not None and graph is not None  # noqa: S101, PT018 - chosen by the caller
    branch: Graph = node.attribute("then_branch" if bool(condition.reshape(-1)[0]) else "else_branch")
    taken = {value.name for own in module.graphs for value in _values(own, without=node)}
    mapped: dict[Value, Value] = {}
    made: list[Value] = []
    for value in branch.constants:
        mapped[value] = graph.add_constant(Value(value.name, value.type), value.constant)
        made.append(mapped[value])
    for inner in branch:
        made.extend(graph.insert(clone_node(inner, mapped), before=node).results)
    returned = [value if value is None else mapped.get(value, value) for value in branch.outputs]
    for result, given in zip(node.results, returned, strict=True):
        if given is not None:
            _replace(node, result, given)
    erase(node)
    for new in made:
        if new.name in taken:
            new.name = graph.clock.unique_name(new.name)


def _replace(node: Node, result: Value, value: Value) -> None:
    graph = node.graph
    assert graph is not None  # noqa: S101 - the If stands in a graph
    if isinstance(value.type, UnknownType):
        value.type = result.type
    if result.is_output and (value.is_output or value.producer is None or value.producer.graph is not graph):
        value = graph.insert(Node("Identity", (value,), name=f"{node.name or node.op}.result"), before=node).result
        value.type = result.type
    result.replace_all_uses_with(value)


def _values(graph: Graph, *, without: Node) -> list[Value]:
    """Every value of a graph and its subgraphs, but for what stands in one node's subgraphs."""
    found = list(graph.values())
    for node in graph:
        if node is not without:
            for inner in node.subgraphs():
                found += _values(inner, without=without)
    return found
