"""Which outputs of a float network are scores of classes."""

from __future__ import annotations

from collections.abc import Sequence

from qir.graph import Node, Value
from qir.ops import op_of


def class_axis(value: Value, shape: Sequence[int]) -> int | None:
    """Return the axis of the classes of an output, None where its largest element decides nothing.

    Scores are the results of Softmax and LogSoftmax of any rank along that operator's axis, [N, classes] of any layer
    but one that ends in a Sigmoid, a Tanh or a normalization (those are embeddings and several labels at once), and
    [N, T, classes] of a product with a constant matrix. Images, boxes and hidden states are none, nor is one class.

    Args:
        value: output of the float network.
        shape: its sizes in a run.
    """
    node = _maker(value)
    axis = None if node is None or len(shape) < 2 else _axis(node, len(shape))
    return axis if axis and shape[axis] > 1 else None


def _maker(value: Value) -> Node | None:
    while value.producer is not None and value.producer.op == "Identity":
        value = value.producer.operands[0]
    return value.producer


def _axis(node: Node, rank: int) -> int | None:
    if node.op in ("Softmax", "LogSoftmax"):
        return int(node.attribute("axis", -1)) % rank
    if rank == 2:
        return None if node.op in ("Sigmoid", "Tanh") or node.op.endswith("Normalization") else 1
    return 2 if rank == 3 and _is_product(node) else None


def _is_product(node: Node) -> bool:
    """Return whether a node multiplies with a constant matrix, or adds a constant to such a product."""
    if node.op == "Add" and any(value.is_constant for value in node.operands):
        node = next((value.producer for value in node.operands if value.producer is not None), node)
    return node.op in ("MatMul", "Gemm") and op_of(node).quantizable(node) is not None
