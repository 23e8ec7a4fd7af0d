"""Graphs and calls as networkx sees them: frozen snapshots for analyses and drawing, never storage."""

from __future__ import annotations

from typing import TYPE_CHECKING

from qir.graph import Graph, Node, Value

if TYPE_CHECKING:
    import networkx as nx


def to_networkx(graph: Graph) -> nx.MultiDiGraph[Node | Value]:
    """Return the nodes of a graph with its inputs and constants; an edge for each operand.

    Vertices are the `Node` objects (the `return` node included), and the `Value` objects of inputs and constants, in
    the graph's order. An edge runs from where a value comes from to its user, keyed by operand index, with the
    attribute `value`. Values captured by a subgraph are edges into the node that holds the subgraph, keyed
    `(subgraph node, operand index)`.

    Args:
        graph: the graph; later changes do not show in the view.

    Returns:
        A frozen `networkx.MultiDiGraph`: changing it raises `networkx.NetworkXError`.
    """
    import networkx as nx

    view: nx.MultiDiGraph[Node | Value] = nx.MultiDiGraph()
    view.add_nodes_from(graph.inputs)
    view.add_nodes_from(graph.constants)
    for node in (*graph, graph.return_node):
        view.add_node(node)
        for index, value in enumerate(node.inputs):
            if value is not None:
                view.add_edge(value.producer or value, node, key=index, value=value)
        for inner, index, value in captured(node):
            if (value.producer or value) in view:
                view.add_edge(value.producer or value, node, key=(inner, index), value=value)
    nx.freeze(view)
    return view


def captured(node: Node) -> list[tuple[Node, int, Value]]:
    """Return operands of nodes inside a node's subgraphs: the user, the operand's index, the value."""
    found = []
    for graph in node.subgraphs():
        for inner in (*graph, graph.return_node):
            found += [(inner, index, value) for index, value in enumerate(inner.inputs) if value is not None]
            found += captured(inner)
    return found
