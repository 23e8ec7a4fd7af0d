"""Evaluation of nodes whose operands are all constant."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from qir.errors import QirError
from qir.graph import Node, Value
from qir.module import Module
from qir.ops import op_of
from qir.ops.known_integers import known_integers
from qir.passes.constants import array_of, constant_of, erase, frozen, is_standard
from qir.passes.fold_reshape import computed_dims
from qir.passes.manager import Pass, PassContext
from qir.tensor import Array, numpy_dtype
from qir.types import DType, TensorType


@dataclass(frozen=True)
class FoldConstants(Pass):
    """Replace nodes of ONNX's operator set by the constants that they compute.

    Shapes that are known count as constants, also the single dimensions that are picked from a partly known shape.
    Never folded: quantizers (ONNX's, QONNX's and qir's own), random numbers, nodes with subgraphs, what ONNX Runtime
    cannot evaluate (listed with its reason in `module.meta["fold-constants"]`), and results that would be larger than
    `largest` bytes and than their operands.

    Attributes:
        largest: bytes that a folded result may always have.
    """

    name: ClassVar[str] = "fold-constants"
    largest: int = 1 << 20

    def run(self, module: Module, context: PassContext) -> bool:
        """Fold; True when a node was replaced."""
        del context
        changed = False
        kept: dict[str, str] = {}
        for graph in module.graphs:
            for node in tuple(graph.walk()):
                if node.graph is None or not _may_fold(node):
                    continue
                reason = self._fold(node, module)
                if reason:
                    kept[node.name or node.result.name] = reason
                changed |= not reason
        module.meta[self.name] = kept
        return changed

    def _fold(self, node: Node, module: Module) -> str:
        """Fold one node; why not, or an empty text."""
        values = _known_shape(node)
        if values is None:
            operands = _arrays(node)
            if any(a is None for a, v in zip(operands, node.inputs, strict=True) if v is not None):
                return "an operand is not constant"
            reason = self._too_large(node)
            if reason:
                return reason
            try:
                values = _evaluate(node, operands, module)
            except QirError as error:
                return str(error)
            if not all(isinstance(value, np.ndarray) for value in values):
                return "its result is no tensor"
            if sum(value.nbytes for value in values) > max(self.largest, _bytes(node)):
                return f"its result is larger than {self.largest} bytes"
        _replace(node, values)
        return ""

    def _too_large(self, node: Node) -> str:
        if not op_of(node).is_enlarging:
            return ""
        known, shape = node.result.type, _shape_of_result(node)
        if shape is None or not isinstance(known, TensorType):
            return "it enlarges its operand and its result's shape is unknown"
        size = int(np.prod(shape, dtype=np.int64)) * numpy_dtype(known.dtype).itemsize
        return f"its result is larger than {self.largest} bytes" if size > max(self.largest, _bytes(node)) else ""


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


def _arrays(node: Node) -> list[Array | None]:
    """What is known of each operand; of the second one of CastLike nothing but its element type matters."""
    operands = [array_of(value) for value in node.inputs]
    like = node.input(1) if is_standard(node, "CastLike") else None
    if like is not None and isinstance(like.type, TensorType):
        operands[1] = np.zeros((), numpy_dtype(like.type.dtype))
    return operands


def _bytes(node: Node) -> int:
    return sum(array.nbytes for value in node.operands if (array := array_of(value)) is not None)


def _evaluate(node: Node, operands: list[Array | None], module: Module) -> list[Array]:
    from qir.backends.evaluate import evaluate_constant

    return evaluate_constant(node, operands, opsets=module.opsets)


def _replace(node: Node, values: list[Array]) -> None:
    graph = node.graph
    assert graph is not None  # noqa: S101 - checked by the caller
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
    """What a node that computes with shapes gives when the dimensions it asks for are known."""
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
    """The few int64 numbers that a node computes from known ones; Div is left to an executor, which has all digits."""
    known = node.result.type
    if not isinstance(known, TensorType) or known.element is not DType.INT64 or is_standard(node, "Div"):
        return None
    found = known_integers(node.result)
    return None if found is None else [found.numpy().copy()]


def _is_scalar(value: Value | None) -> bool:
    constant = constant_of(value)
    return constant is not None and constant.shape == ()
