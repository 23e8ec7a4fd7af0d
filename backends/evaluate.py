"""Evaluation of single nodes on constants, by ONNX Runtime's kernels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from qir.backends.onnxruntime_session import OrtSession
from qir.graph import Graph, Node, Value
from qir.module import Module
from qir.tensor import Array, dtype_of
from qir.types import tensor_type

_NEWEST = {"": 21}


def evaluate_constant(
    node: Node, arrays: Sequence[Array | None], opsets: Mapping[str, int] | None = None
) -> list[Array]:
    """The results of a node for given operands.

    Args:
        node: a node without subgraphs; it is not changed and need not stand in a graph.
        arrays: one array per operand, None for one that is left out.
        opsets: versions of the operator sets that the node is written in; ONNX's 21 when left out.

    Returns:
        One array per result, in order.

    Raises:
        QirError: ONNX Runtime has no kernel for the node or the kernel refuses the operands.
    """
    graph = Graph("constant")
    feeds: dict[str, Array] = {}
    operands: list[Value | None] = []
    for index, array in enumerate(arrays):
        if array is None:
            operands.append(None)
            continue
        name = f"operand{index}"
        operands.append(graph.add_input(name, tensor_type(dtype_of(array.dtype), array.shape)))
        feeds[name] = array
    results = [f"result{index}" for index in range(len(node.results))]
    made = Node(node.op, operands, results, domain=node.domain, attributes=dict(node.attributes))
    graph.insert(made)
    graph.set_outputs(made.results)
    versions = dict(opsets or _NEWEST)
    needed = {domain: version for domain, version in versions.items() if domain in {"", "ai.onnx", node.domain}}
    found = OrtSession(Module(graph, opsets=needed), optimization="disable").run(feeds)
    return [found[name] for name in results]
