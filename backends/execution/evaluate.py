"""Evaluation of single nodes whose operands are constants."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from qir.cloning import clone_node
from qir.errors import QirError
from qir.graph import Graph, Node, Value
from qir.module import Module
from qir.onnx_io.sandbox import EVALUATE, run_apart
from qir.ops.protos import node_model, read_arrays, run_reference
from qir.tensor import Array, Tensor
from qir.types import tensor_type

SECONDS = 20.0
"""What the evaluation of one node of a file may take."""

LARGEST_MEMORY = 1 << 30
"""Bytes that the evaluation of one node of a file may take beyond a few times its operands."""


def evaluate_constant(
    node: Node, inputs: Sequence[Array | None], *, opsets: Mapping[str, int] | None = None
) -> list[Array]:
    """Return the results of a node for given operands, by ONNX Runtime; by ONNX's reference where that cannot run it.

    Args:
        node: a node without subgraphs.
        inputs: one array per operand, None where it is left out.
        opsets: version by domain; by default opset 21.

    Returns:
        One array per result of the node.

    Raises:
        QirError: neither can run the node; the message holds both reasons.
    """
    model = _model(node, inputs, opsets)
    try:
        return _run_session(model.SerializeToString())
    except QirError as error:
        first = error
    try:
        return run_reference(model)
    except Exception as error:  # kernels of the reference raise whatever numpy raises
        raise QirError(f"node {node} cannot be evaluated: {first}; the reference says {error}") from error


def evaluate_apart(
    node: Node, inputs: Sequence[Array | None], *, opsets: Mapping[str, int] | None = None
) -> list[Array]:
    """Return the same as `evaluate_constant`, for numbers that a file holds.

    In a process with limits of time and memory.

    Args, result and errors are those of `evaluate_constant`; a node that passes the limits or ends the process is an
    error too.
    """
    model = _model(node, inputs, opsets).SerializeToString()
    try:
        answer = run_apart(EVALUATE, model, seconds=SECONDS, memory=LARGEST_MEMORY + 8 * len(model))
    except QirError as error:
        raise QirError(f"node {node} cannot be evaluated: {error}") from error
    return read_arrays(answer)


def _model(node: Node, inputs: Sequence[Array | None], opsets: Mapping[str, int] | None) -> Any:
    names = tuple("" if array is None else f"operand{index}" for index, array in enumerate(inputs))
    given = {name: array for name, array in zip(names, inputs, strict=True) if array is not None}
    results = tuple(f"result{index}" for index in range(len(node.results)))
    return node_model(node, given, names, results, opsets or {"": 21})


def evaluate_control_flow(node: Node, values: Mapping[Value, Array], *, opsets: Mapping[str, int]) -> list[Array]:
    """Return the results of an If, Loop or Scan, by ONNX Runtime.

    Its operands are declared without sizes: a branch that is not taken need not fit those of the values.

    Args:
        node: a node with subgraphs.
        values: its operands, and what its subgraphs capture from around it.
        opsets: version by domain.

    Returns:
        One array per result of the node that has a name.

    Raises:
        QirError: ONNX Runtime cannot run it; the message holds its reason.
    """
    from qir.backends.execution.session import OrtSession

    graph, mapped = Graph("control-flow"), dict[Value, Value]()
    for value, array in values.items():
        mapped[value] = graph.add_input(Value(value.name, tensor_type(Tensor.of(array).type.dtype, None)))
    made = graph.insert(clone_node(node, mapped))
    graph.set_outputs([value for value in made.results if value.name])
    module = Module(graph, opsets=dict(opsets))
    feeds = {value.name: array for value, array in values.items()}
    return list(OrtSession(module, optimization="disable").run(feeds).values())


def read_inside(graph: Graph) -> Iterator[Value]:
    """Yield every value that nodes of a graph and of those inside it read or return, their own ones included."""
    yield from (value for value in graph.outputs if value is not None)
    for node in graph:
        yield from node.operands
        for inner in node.subgraphs():
            yield from read_inside(inner)


def _run_session(model: bytes) -> list[Array]:
    from qir.backends.execution.session import OrtSession

    return list(OrtSession(model, optimization="disable").run({}).values())
