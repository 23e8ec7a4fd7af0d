"""Nodes that are evaluated batch after batch: one session for each of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from qir.backends.execution.evaluate import evaluate_constant
from qir.backends.execution.session import OrtSession
from qir.errors import QirError
from qir.graph import Node, Value
from qir.ops.protos import node_model
from qir.tensor import Array


class NodeSessions:
    """Sessions of ONNX Runtime without optimizations, one a node and kind of operands (element types and ranks).

    Args:
        opsets: version by domain.
        constants_change: float constants are operands like others, because they may have changed at the next run.
    """

    def __init__(self, opsets: Mapping[str, int], *, constants_change: bool = False) -> None:
        self._opsets, self._constants_change = opsets, constants_change
        self._sessions: dict[Any, OrtSession | None] = {}

    def run(self, node: Node, operands: Sequence[Array | None]) -> list[Array]:
        """Return the results of a node, as `evaluate_constant` gives them, which runs what no session takes.

        Args:
            node: a node without subgraphs.
            operands: one array per operand, None where it is left out.

        Raises:
            QirError: the node cannot be evaluated.
        """
        session = self._session(node, operands)
        if session is not None:
            try:
                feed = {f"operand{i}": a for i, a in enumerate(operands) if f"operand{i}" in session.input_names}
                return list(session.run({name: array for name, array in feed.items() if array is not None}).values())
            except QirError:  # what only constants tell, such as a shape
                pass
        return evaluate_constant(node, operands, opsets=self._opsets)

    def _session(self, node: Node, operands: Sequence[Array | None]) -> OrtSession | None:
        """Return the node's session for such operands, None where ONNX Runtime takes them as constants only."""
        kinds = tuple(None if array is None else (array.dtype, array.ndim) for array in operands)
        if (node, kinds) not in self._sessions:
            try:
                self._sessions[node, kinds] = OrtSession(self._model(node, operands), optimization="disable")
            except QirError:
                self._sessions[node, kinds] = None
        return self._sessions[node, kinds]

    def _is_baked(self, array: Array, value: Value | None) -> bool:
        if value is not None and not value.is_constant:
            return False
        return not (self._constants_change and array.dtype.kind == "f")

    def _model(self, node: Node, operands: Sequence[Array | None]) -> bytes:
        names = tuple("" if array is None else f"operand{index}" for index, array in enumerate(operands))
        values = zip(names, operands, node.inputs, strict=True)
        given = [(name, array, value) for name, array, value in values if array is not None]
        constants = {name: array for name, array, value in given if self._is_baked(array, value)}
        inputs = {name: array for name, array, _ in given if name not in constants}
        results = tuple(f"result{index}" for index in range(len(node.results)))
        model: bytes = node_model(node, constants, names, results, self._opsets, inputs).SerializeToString()
        return model
