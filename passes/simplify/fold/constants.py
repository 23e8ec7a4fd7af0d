"""Evaluation of nodes whose operands are all constant."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from qir.errors import PassError, QirError
from qir.graph import Node, Value
from qir.module import Module
from qir.ops import op_of
from qir.ops.inference import is_conditional
from qir.ops.inference_guards import undefined_division
from qir.ops.known_integers import known_integers
from qir.passes.analysis.constants import array_of, constant_of, erase, frozen, is_standard
from qir.passes.infrastructure.contract import Pass, PassContext
from qir.passes.simplify.fold.reshape import computed_dims
from qir.tensor import Array, numpy_dtype
from qir.types import DType, TensorType

LARGEST_GROWTH = 1 << 26
"""Bytes that all folded results together may have more than their operands."""

LARGEST_WORK = 3 * 10**10
"""Multiply-accumulates, and bytes read and written, that all evaluations together may take: about a minute."""

LARGEST_COPIED = 1 << 24
"""Bytes of operands that go to another process."""


@dataclass(frozen=True)
class FoldConstants(Pass):
    """Replace nodes of ONNX's operator set by the constants that they compute.

    Shapes that are known count as constants, also the single dimensions that are picked from a partly known shape.
    Never folded: quantizers (ONNX's, QONNX's and qir's own), random numbers, nodes with subgraphs, what ONNX Runtime
    cannot evaluate (listed with its reason in `context.reports["fold-constants"]`), and results that would be larger
    than `largest` bytes and than their operands. Nodes are evaluated in a process with limits of time and memory.

    Attributes:
        largest: bytes that a folded result may always have.
    """

    name: ClassVar[str] = "fold-constants"
    largest: int = 1 << 20

    def run(self, module: Module, context: PassContext) -> bool:
        """Fold; True when a node was replaced. Raises `PassError` where integers are divided by zero."""
        changed = False
        budget = _Budget()
        kept: dict[str, str] = {}
        for graph in module.graphs:
            for node in tuple(graph.walk()):
                if node.graph is None or not _may_fold(node):
                    continue
                values = budget.refusal(node) or self._values(node, module)
                if isinstance(values, str):
                    kept[node.name or node.result.name] = values
                    continue
                budget.grown += max(sum(value.nbytes for value in values) - _bytes(node), 0)
                _replace(node, values)
                changed = True
        context.reports[self.name] = kept
        return changed

    def _values(self, node: Node, module: Module) -> list[Array] | str:
        """Return what a node computes, or why that is not known."""
        values = _known_shape(node)
        if values is not None:
            return values
        operands = _arrays(node)
        if any(a is None for a, v in zip(operands, node.inputs, strict=True) if v is not None):
            return "an operand is not constant"
        if self._is_larger(_bytes_of_results(node), node):
            return f"its result is larger than {self.largest} bytes"
        if op_of(node).is_enlarging and _shape_of_result(node) is None:
            return "it enlarges its operand and its result's shape is unknown"
        try:
            _check_division(node, operands)
            values = _evaluate(node, operands, module)
        except QirError as error:
            if isinstance(error, PassError):
                raise
            return str(error)
        if not all(isinstance(value, np.ndarray) for value in values):
            return "its result is not a tensor"
        if self._is_larger(sum(value.nbytes for value in values), node):
            return f"its result is larger than {self.largest} bytes"
        return values

    def _is_larger(self, size: int, node: Node) -> bool:
        return size > max(self.largest, _bytes(node))


class _Budget:
    """How much the constants of a network have grown, and how much work that was."""

    def __init__(self) -> None:
        self.grown = 0
        self.work = 0

    def refusal(self, node: Node) -> str:
        """Return why a node is not evaluated any more, empty when it is; its work counts from now on."""
        if self.grown > LARGEST_GROWTH:
            return f"the constants have grown by more than {LARGEST_GROWTH} bytes"
        work = (op_of(node).macs(node) or 0) + _bytes(node) + _bytes_of_results(node)
        if self.work + work > LARGEST_WORK:
            return "the evaluation of the constants takes too much work"
        self.work += work
        return ""


def _may_fold(node: Node) -> bool:
    op = op_of(node)
    if node.domain not in {"", "ai.onnx"} or op.is_quantize or op.is_dequantize or op.is_random:
        return False
    if node.subgraphs() or any(attribute.reference for attribute in node.attributes.values()):
        return False
    known = [constant_of(value) is not None for value in node.operands]
    if _known_shape(node) is None and not all(known[: 1 if is_standard(node, "CastLike") else None]):
        return False
    return bool(node.operands) and not any(v.is_output for v in node.results)


def _shape_of_result(node: Node) -> tuple[int, ...] | None:
    """As its type says; that of Expand as its operands say."""
    if is_standard(node, "Expand"):
        data, asked = array_of(node.input(0)), array_of(node.input(1))
        try:
            return None if data is None or asked is None else np.broadcast_shapes(data.shape, asked.tolist())
        except ValueError:  # an executor says what is wrong with it
            return None
    known = node.result.type
    return known.static_shape() if isinstance(known, TensorType) else None


def _bytes_of_results(node: Node) -> int:
    """Return what is known of it: results of unknown shape count 0."""
    shape = _shape_of_result(node)
    shapes = [shape, *(r.type.static_shape() if isinstance(r.type, TensorType) else None for r in node.results[1:])]
    return sum(
        math.prod(shape) * numpy_dtype(result.type.dtype).itemsize
        for result, shape in zip(node.results, shapes, strict=True)
        if shape is not None and isinstance(result.type, TensorType)
    )


def _arrays(node: Node) -> list[Array | None]:
    """Return what is known of each operand; of the second one of CastLike nothing but its element type matters."""
    operands = [array_of(value) for value in node.inputs]
    like = node.input(1) if is_standard(node, "CastLike") else None
    if like is not None and isinstance(like.type, TensorType):
        operands[1] = np.zeros((), numpy_dtype(like.type.dtype))
    return operands


def _bytes(node: Node) -> int:
    return sum(array.nbytes for value in node.operands if (array := array_of(value)) is not None)


def _check_division(node: Node, operands: list[Array | None]) -> None:
    """Refuse integers divided by zero; inside a branch, which may never run, the node only stays."""
    problem = undefined_division(node, dict(enumerate(operands)))
    if problem is not None:
        raise (QirError if is_conditional(node) else PassError)(f"fold-constants: node {node}: {problem}")


def _evaluate(node: Node, operands: list[Array | None], module: Module) -> list[Array]:
    """In a process of its own, but for the largest operands: to copy them there takes longer than what is computed."""
    from qir.backends.execution.evaluate import evaluate_apart, evaluate_constant

    if _bytes(node) > LARGEST_COPIED:
        return evaluate_constant(node, operands, opsets=module.opsets)
    return evaluate_apart(node, operands, opsets=module.opsets)


def _replace(node: Node, values: list[Array]) -> None:
    graph = node.scope
    for result, array in zip(node.results, values, strict=False):
        if not result.uses:
            continue
        name = result.name
        made = graph.add_constant(graph.clock.unique_name(name), frozen(array))
        result.replace_all_uses_with(made)
        result.name = ""
        made.name = name
    erase(node)


def _known_shape(node: Node) -> list[Array] | None:
    """Return what a node that computes with shapes gives when the dimensions it asks for are known."""
    if is_standard(node, "Size"):
        data = node.input(0)
        shape = data.type.static_shape() if data is not None and isinstance(data.type, TensorType) else None
        return None if shape is None else [np.asarray(np.prod(shape, dtype=np.int64))]
    if not is_standard(node, "Shape", "Gather", "Slice"):
        return _integers(node)
    dims = computed_dims(node.result)
    if dims is None or not all(isinstance(dim, int) for dim in dims):
        return None
    scalar = is_standard(node, "Gather") and _is_scalar(node.input(1))
    return [np.array(dims[0] if scalar else dims, dtype=np.int64)]


def _integers(node: Node) -> list[Array] | None:
    """Return the few int64 numbers that a node computes from known ones.

    Div is left to an executor, which has all digits.
    """
    known = node.result.type
    if not isinstance(known, TensorType) or known.element is not DType.INT64 or is_standard(node, "Div"):
        return None
    found = known_integers(node.result)
    return None if found is None else [found.numpy().copy()]


def _is_scalar(value: Value | None) -> bool:
    constant = constant_of(value)
    return constant is not None and constant.shape == ()
