"""Operators on codes (QLinearConv and its kin), in terms of the kernels of the operators they stand for.

Operand positions follow ONNX (QLinearConv, QLinearMatMul, ConvInteger, MatMulInteger) and ONNX Runtime's documentation
of its contrib operators (com.microsoft QGemm, QLinearAdd, QLinearMul, QLinearConcat, QLinearAveragePool,
QLinearGlobalAveragePool).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from qir.backends.integer_reference_kernels import KERNELS, Operand
from qir.backends.integer_reference_requantization import Requantization
from qir.backends.integer_reference_values import Grid, Pending, label_of, on_grid
from qir.graph import Node
from qir.tensor import Array


@dataclass(frozen=True)
class Operator:
    """How an operator on codes reads its operands.

    Attributes:
        op: the operator on real numbers.
        operands: (codes, scale, zero point) of each operand; a scale of -1 is 1.
        output: (scale, zero point) of the result; (-1, -1) = the exact sums in int32.
        weight_axis: channel axis of the second operand's scales.
        bias: index of the int32 bias.
    """

    op: str
    operands: tuple[tuple[int, int, int], ...]
    output: tuple[int, int]
    weight_axis: Callable[[Node], int] = lambda _: 0
    bias: int | None = None


_UNARY, _BINARY, _INTEGER = ((0, 1, 2),), ((0, 1, 2), (3, 4, 5)), ((0, -1, 2), (1, -1, 3))
_SUMS = (-1, -1)

OPERATORS = {
    "QLinearConv": Operator("Conv", _BINARY, (6, 7), bias=8),
    "QLinearMatMul": Operator("MatMul", _BINARY, (6, 7), weight_axis=lambda _: -1),
    "QGemm": Operator("Gemm", _BINARY, (7, 8), lambda node: 0 if node.attribute("transB", 0) else 1, bias=6),
    "QLinearAdd": Operator("Add", _BINARY, (6, 7)),
    "QLinearMul": Operator("Mul", _BINARY, (6, 7)),
    "QLinearAveragePool": Operator("AveragePool", _UNARY, (3, 4)),
    "QLinearGlobalAveragePool": Operator("GlobalAveragePool", _UNARY, (3, 4)),
    "ConvInteger": Operator("Conv", _INTEGER, _SUMS),
    "MatMulInteger": Operator("MatMul", _INTEGER, _SUMS, weight_axis=lambda _: -1),
}


def operator_of(node: Node) -> Operator | None:
    """How a node reads its operands, None when it is no operator on codes."""
    if node.op == "QLinearConcat":
        triples = tuple((index, index + 1, index + 2) for index in range(2, len(node.inputs), 3))
        return Operator("Concat", triples, (0, 1))
    return OPERATORS.get(node.op)


def run_operator(node: Node, operands: Sequence[Operand], kind: Requantization) -> Array | None:
    """The codes, int32 sums or float values that an operator on codes gives; None when it has no integer arithmetic."""
    operator = operator_of(node)
    if operator is None or node.attribute("channels_last", 0):
        return None
    arrays = [operand if isinstance(operand, np.ndarray) else None for operand in operands]
    grids: list[Operand] = []
    for position, (codes, scale, zero) in enumerate(operator.operands):
        axis = operator.weight_axis(node) if position else 0
        grids.append(_grid(arrays[codes], _at(arrays, scale), _at(arrays, zero), axis))
    bias = None if operator.bias is None else _at(arrays, operator.bias)
    if bias is not None:
        grids.append(Grid(bias.astype(np.int32), np.ones((), np.float32), np.zeros((), np.int32), 32))
    found = KERNELS[operator.op](node, grids)
    if operator.output == _SUMS:
        return found.terms()[0].integers.astype(np.int32) if isinstance(found, Pending) else None
    if not isinstance(found, Grid | Pending):
        return None
    step, offset = _at(arrays, operator.output[0]), _at(arrays, operator.output[1])
    if step is None:
        return found.real()
    dtype = np.dtype(np.uint8) if offset is None else offset.dtype
    code = 0 if offset is None else int(offset.reshape(-1)[0])
    return on_grid(found, np.float32(step.reshape(-1)[0]), code, dtype, kind, label_of(node))


def _at(arrays: Sequence[Array | None], index: int) -> Array | None:
    return arrays[index] if 0 <= index < len(arrays) else None


def _grid(codes: Array | None, scale: Array | None, zero: Array | None, axis: int) -> Grid | None:
    if codes is None:
        return None
    steps = np.ones((), np.float32) if scale is None else scale.astype(np.float32)
    zeros = np.zeros((), np.int32) if zero is None else zero.astype(np.int32)
    return Grid(codes.astype(np.int32), _along(steps, codes, axis), _along(zeros, codes, axis))


def _along(parameters: Array, codes: Array, axis: int) -> Array:
    """One parameter, or one a channel, shaped to broadcast against the codes."""
    if parameters.size == 1:
        return parameters.reshape(())
    shape = [1] * codes.ndim
    shape[axis] = -1
    return parameters.reshape(shape)
