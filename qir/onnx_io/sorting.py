"""Topological order of a file's nodes, for files that do not keep it."""

from __future__ import annotations

import heapq
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
    """Names that a node or a graph inside it reads, whoever defines them."""
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
    """The nodes, each after those whose results it reads; the file's order is kept as far as that allows.

    Raises:
        ModelFileError: nodes read each other's results in a circle.
    """
    producer = {name: index for index, node in enumerate(nodes) for name in node.output if name}
    users: list[list[int]] = [[] for _ in nodes]
    waiting = [0] * len(nodes)
    for index, node in enumerate(nodes):
        for source in {producer[name] for name in _names_read(node) if name in producer}:
            users[source].append(index)
            waiting[index] += 1
    ready = [index for index, count in enumerate(waiting) if count == 0]
    order: list[onnx.NodeProto] = []
    while ready:
        index = heapq.heappop(ready)
        order.append(nodes[index])
        for user in users[index]:
            waiting[user] -= 1
            if waiting[user] == 0:
                heapq.heappush(ready, user)
    if len(order) < len(nodes):
        stuck = next(nodes[index] for index, count in enumerate(waiting) if count)
        raise ModelFileError(
            f"{where}: nodes form a cycle, among them {stuck.op_type} {stuck.name!r}: a graph has none"
        )
    return order
