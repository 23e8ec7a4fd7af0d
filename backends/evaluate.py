"""Evaluation of single nodes whose operands are constants."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from qir.errors import QirError
from qir.graph import Node
from qir.ops.protos import node_model, run_reference
from qir.tensor import Array


def evaluate_constant(
    node: Node, inputs: Sequence[Array | None], *, opsets: Mapping[str, int] | None = None
) -> list[Array]:
    """The results of a node for given operands, by ONNX Runtime; by ONNX's reference where that cannot run it.

    Args:
        node: a node without subgraphs.
        inputs: one array per operand, None where it is left out.
        opsets: version by domain; by default opset 21.

    Returns:
        One array per result of the node.

    Raises:
        QirError: neither can run the node; the message holds both reasons.
    """
    names = tuple("" if array is None else f"operand{index}" for index, array in enumerate(inputs))
    given = {name: array for name, array in zip(names, inputs, strict=True) if array is not None}
    results = tuple(f"result{index}" for index in range(len(node.results)))
    model = node_model(node, given, names, results, opsets or {"": 21})
    try:
        return _run_session(model.SerializeToString())
    except QirError as error:
        first = error
    try:
        return run_reference(model)
    except Exception as error:  # kernels of the reference raise whatever numpy raises
        raise QirError(f"node {node} cannot be evaluated: {first}; the reference says {error}") from error


def _run_session(model: bytes) -> list[Array]:
    from qir.backends.onnxruntime_session import OrtSession

    return list(OrtSession(model, optimization="disable").run({}).values())
