"""Topological order of a file's nodes, for files that do not keep it."""

from __future__ import annotations

from collections.abc import Sequence

import onnx

from qir.errors import ModelFileError


def _subgraphs(node: onnx.NodeProto) -> list[onnx.GraphProto]:
    found: list[onnx.GraphProto] = []
    for attribute in node.attribute:
        if attribute.HasField("g"):
            found.append(attribute.g)
        found.extend(attribute.graphs)
    return found


def _names_read(node: onnx.NodeProto) -> set[str]:
    """Return names that a node or a graph inside it reads, whoever defines them."""
    names = set(node.input)
    pending = _subgraphs(node)
    while pending:
        graph = pending.pop()
        names.update(output.name for output in graph.output)
        for inner in graph.node:
            names.update(inner.input)
            pending += _subgraphs(inner)
    return names


def sorted_nodes(nodes: Sequence[onnx.NodeProto], where: str) -> list[onnx.NodeProto]:
    """Return the nodes, each after those whose results it reads; the file's order is kept as far as that allows.

    Raises:
        ModelFileError: nodes read each other's results in a circle.
    """
    import networkx as nx

    producer = {name: index for index, node in enumerate(nodes) for name in node.output if name}
    reads: nx.DiGraph[int] = nx.DiGraph()
    reads.add_nodes_from(range(len(nodes)))
    for index, node in enumerate(nodes):
        reads.add_edges_from((producer[name], index) for name in _names_read(node) if name in producer)
    try:
        return [nodes[index] for index in nx.lexicographical_topological_sort(reads)]
    except nx.NetworkXUnfeasible:
        found = [nodes[index] for index, _ in nx.find_cycle(reads)]
        names = ", ".join(f"{node.op_type} {node.name!r}" for node in found[:3]) + (", …" if len(found) > 3 else "")
        raise ModelFileError(f"{where}: nodes form a cycle, among them {names}: a graph has none") from None
