"""What passes and cost models ask about an op, and what ONNX does not know about it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from qir.graph import QIR_DOMAIN, Node, Value
from qir.types import TensorType


@dataclass(frozen=True, slots=True)
class Operands:
    """Where a quantizable node's operands are.

    Attributes:
        data: index of the data operand.
        weight: index of the weight operand (for a product of two activations: the second one).
        bias: index of the bias operand, None when the op has none.
        weight_axis: axis of the weight that is the output channel, None when a channel is no single index.
    """

    data: int
    weight: int
    bias: int | None
    weight_axis: int | None


@dataclass(frozen=True)
class OpFacts:
    """Answers about one op; the default answers are those of an unknown op.

    Attributes:
        is_join: combines several tensors that must be rescaled to one grid (Add, Concat).
        is_average: averages its operand (pooling).
        is_activation: may run behind the node that feeds it.
        is_free: moves no data (a view).
    """

    operands: Callable[[Node], Operands | None] = lambda _: None
    keeps: Callable[[Node], int | None] = lambda _: None
    is_join: bool = False
    is_average: bool = False
    is_activation: bool = False
    is_free: bool = False

    def quantizable(self, node: Node) -> Operands | None:
        """The operands to quantize, None when the op is never quantized."""
        return self.operands(node)

    def grid_operand(self, node: Node) -> int | None:
        """Index of the operand whose grid the result keeps, or None."""
        return self.keeps(node)

    def fuses_into_producer(self, node: Node) -> bool:
        """Whether the op runs for free behind the node that feeds it (Relu, Clip)."""
        return self.is_activation and node.input(0) is not None


def _rank(value: Value | None) -> int | None:
    return value.type.rank if value is not None and isinstance(value.type, TensorType) else None


def _conv(node: Node) -> Operands:  # noqa: ARG001
    return Operands(0, 1, 2, 0)


def _conv_transpose(node: Node) -> Operands:
    return Operands(0, 1, 2, 1 if node.attribute("group", 1) == 1 else None)


def _gemm(node: Node) -> Operands | None:
    if node.attribute("transA", 0):
        return None
    return Operands(0, 1, 2, 0 if node.attribute("transB", 0) else 1)


def _matmul(node: Node) -> Operands:
    rank = _rank(node.input(1))
    return Operands(0, 1, None, None if rank is None or rank < 2 else rank - 1)


def _first(node: Node) -> int:  # noqa: ARG001
    return 0


_MATRIX = {
    "Conv": OpFacts(operands=_conv),
    "ConvTranspose": OpFacts(operands=_conv_transpose),
    "Gemm": OpFacts(operands=_gemm),
    "MatMul": OpFacts(operands=_matmul),
}
_KEEPING = {
    op: OpFacts(keeps=_first)
    for op in ("Transpose", "Slice", "Gather", "MaxPool")
}
_VIEWS = {op: OpFacts(keeps=_first, is_free=True) for op in ("Reshape", "Flatten", "Squeeze", "Unsqueeze", "Identity")}
_JOINS = {op: OpFacts(is_join=True) for op in ("Add", "Concat")}
_AVERAGES = {op: OpFacts(is_average=True) for op in ("AveragePool", "GlobalAveragePool", "ReduceMean")}
_ACTIVATIONS = {op: OpFacts(is_activation=True) for op in ("Relu", "Clip")}
_FACTS = {**_MATRIX, **_KEEPING, **_VIEWS, **_JOINS, **_AVERAGES, **_ACTIVATIONS}
_UNKNOWN = OpFacts()


def op_of(node: Node) -> OpFacts:
    """The facts about a node's op; an unknown op is never quantized and keeps no grid."""
    if node.domain not in {"", "ai.onnx"} or node.domain == QIR_DOMAIN:
        return _UNKNOWN
    return _FACTS.get(node.op, _UNKNOWN)
