"""Deep copies of graphs; constants are shared because they are never written into."""

from __future__ import annotations

from dataclasses import replace

from qir.attributes import Attribute, AttributeKind
from qir.graph import Graph, Node, Value

ValueMap = dict[Value, Value]


def _copy_value(value: Value) -> Value:
    made = Value(value._name)
    made._type = value._type
    made._constant = value._constant
    made.doc_string = value.doc_string
    made.metadata = dict(value.metadata)
    made.opaque = value.opaque
    made.declared = value.declared
    made._meta = None if value._meta is None else dict(value._meta)
    return made


def _copy_attribute(attribute: Attribute, mapped: ValueMap) -> Attribute:
    if attribute.kind is AttributeKind.GRAPH and not attribute.reference:
        return replace(attribute, value=clone_graph(attribute.value, mapped))
    if attribute.kind is AttributeKind.GRAPHS:
        return replace(attribute, value=tuple(clone_graph(g, mapped) for g in attribute.value))
    return attribute


def clone_node(node: Node, mapped: ValueMap) -> Node:
    """Return a copy of a node.

    Operands are looked up in `mapped` (those not in it are kept), results are added to it.
    """
    results = [_copy_value(v) for v in node.results]
    made = Node(
        node.op,
        [v if v is None else mapped.get(v, v) for v in node.inputs],
        results,
        domain=node.domain,
        name=node.name,
        overload=node.overload,
        attributes={name: _copy_attribute(a, mapped) for name, a in node.attributes.items()},
    )
    made.doc_string = node.doc_string
    made.metadata = dict(node.metadata)
    made.opaque = node.opaque
    made._meta = None if node._meta is None else dict(node._meta)
    mapped.update(zip(node.results, results, strict=True))
    return made


def clone_graph(graph: Graph, mapped: ValueMap | None = None) -> Graph:
    """Return a copy of a graph; values captured from outside are looked up in `mapped` or kept."""
    mapped = {} if mapped is None else mapped
    made = Graph(graph.name)
    made.doc_string = graph.doc_string
    made.metadata = dict(graph.metadata)
    made.opaque = graph.opaque
    made.meta = dict(graph.meta)
    made.clock.names |= graph.clock.names
    for value in graph.inputs:
        mapped[value] = _copy_value(value)
    made.add_inputs(mapped[value] for value in graph.inputs)
    for value in graph.constants:
        mapped[value] = made.add_constant(_copy_value(value))
    for node in graph:
        made.insert(clone_node(node, mapped))
    made.set_outputs((v if v is None else mapped.get(v, v) for v in graph.outputs), graph.output_names)
    made.return_node._meta = None if graph.return_node._meta is None else dict(graph.return_node._meta)
    return made
