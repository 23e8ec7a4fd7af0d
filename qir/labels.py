"""Labels: a name of its own for every node and constant of a graph, whatever names the file repeats or leaves out."""

from __future__ import annotations

from collections.abc import Hashable, Iterable
from typing import TypeVar

from qir.graph import Graph, Node, Value

T = TypeVar("T", bound=Hashable)


def unique_labels(graph: Graph) -> dict[Node, str]:
    """Return a label for every node of a graph and its subgraphs.

    Quantizers and then all other nodes with names keep theirs as long as no earlier node has it; a node without a name
    is called after its first result. What repeats ends with `.2`, `.3`, ….
    """
    nodes = sorted(graph.walk(), key=lambda node: (not node.is_fake_quant, not node.name))
    return unique((node, node.label) for node in nodes)


def constant_labels(graph: Graph) -> dict[Value, str]:
    """Return a label for every input and constant of a graph and its subgraphs, which may repeat each other's names."""
    graphs = (graph, *(inner for node in graph.walk() for inner in node.subgraphs()))
    return unique((value, value.name) for scope in graphs for value in (*scope.inputs, *scope.constants))


def unique(labels: Iterable[tuple[T, str]]) -> dict[T, str]:
    """Return the labels, each with the first free of `.2`, `.3`, … at its end where an earlier one is the same."""
    used, counts, found = set[str](), dict[str, int](), dict[T, str]()
    for item, label in labels:
        name = label
        while name in used:
            counts[label] = counts.get(label, 1) + 1
            name = f"{label}.{counts[label]}"
        used.add(name)
        found[item] = name
    return found
