"""A graph in place of the node that runs it: the branch of an If, the body of a function."""

from __future__ import annotations

from collections.abc import Container, Mapping

from qir.cloning import clone_node
from qir.graph import Graph, Node, Value
from qir.passes.analysis.constants import erase
from qir.types import UnknownType


def inline(
    node: Node, body: Graph, given: Mapping[Value, Value | None], taken: Container[str] | None = None
) -> list[Node]:
    """Replace a node by copies of a graph's nodes; values whose names are taken get new ones.

    Args:
        node: the node, erased.
        body: what it runs.
        given: inputs of the body → operands of the node, None where one is left out.
        taken: names that the copies' values may not keep; by default all of them.

    Returns:
        The copies, in order.
    """
    graph = node.scope
    mapped: dict[Value, Value] = dict(given)  # type: ignore[arg-type]  # operands that are left out map to None
    nodes: list[Node] = []
    made: list[Value] = []
    for value in body.constants:
        mapped[value] = graph.add_constant(Value(value.name, value.type), value.constant)
        made.append(mapped[value])
    for inner in body:
        nodes.append(graph.insert(clone_node(inner, mapped), before=node))
        made.extend(nodes[-1].results)
    returned = [value if value is None else mapped.get(value, value) for value in body.outputs]
    for result, output in zip(node.results, returned, strict=False):
        if output is not None:
            _replace(node, result, output)
    erase(node)
    for new in made:
        if taken is None or new.name in taken:
            new.name = graph.clock.unique_name(new.name)
    return nodes


def _replace(node: Node, result: Value, value: Value) -> None:
    graph = node.scope
    if isinstance(value.type, UnknownType):
        value.type = result.type
    if result.is_output and (value.is_output or value.producer is None or value.producer.graph is not graph):
        value = graph.insert(Node("Identity", (value,), name=f"{node.name or node.op}.result"), before=node).result
        value.type = result.type
    result.replace_all_uses_with(value)
