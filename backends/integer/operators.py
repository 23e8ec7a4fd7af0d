"""Operators on codes (QLinearConv and its kin), in terms of the kernels of the operators they stand for.

Operand positions follow ONNX (QLinearConv, QLinearMatMul, ConvInteger, MatMulInteger) and ONNX Runtime's documentation
of its contrib operators (com.microsoft QGemm, QLinearAdd, QLinearMul, QLinearConcat, QLinearAveragePool,
QLinearGlobalAveragePool, MatMulIntegerToFloat, DynamicQuantizeMatMul).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from qir.backends.integer.kernels import Operand, kernel_of
from qir.backends.integer.requantization import Requantization
from qir.backends.integer.values import Grid, Pending, integer_limits, on_grid
from qir.graph import Node
from qir.tensor import Array


@dataclass(frozen=True)
class Operator:
    """How an operator on codes reads its operands.

    Attributes:
        op: the operator on real numbers.
        operands: (codes, scale, zero point) of each operand; a scale of -1 is 1.
        output: (scale, zero point) of the result; (-1, -1) = the exact sums in int32, (-2, -2) = real numbers.
        weight_axis: channel axis of the second operand's scales.
        bias: index of the bias: int32, or float32 added to real numbers.
    """

    op: str
    operands: tuple[tuple[int, int, int], ...]
    output: tuple[int, int]
    weight_axis: Callable[[Node], int] = lambda _: 0
    bias: int | None = None


_UNARY, _BINARY, _INTEGER = ((0, 1, 2),), ((0, 1, 2), (3, 4, 5)), ((0, -1, 2), (1, -1, 3))
_SUMS, _REAL = (-1, -1), (-2, -2)

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
    "MatMulIntegerToFloat": Operator("MatMul", ((0, 2, 4), (1, 3, 5)), _REAL, weight_axis=lambda _: -1, bias=6),
}


def operator_of(node: Node) -> Operator | None:
    """Return how a node reads its operands, None when it is not an operator on codes."""
    if node.op == "QLinearConcat":
        triples = tuple((index, index + 1, index + 2) for index in range(2, len(node.inputs), 3))
        return Operator("Concat", triples, (0, 1))
    return OPERATORS.get(node.op)


def run_operator(
    node: Node, operands: Sequence[Operand], kind: Requantization, saturating: bool = False
) -> Array | None:
    """Return the codes, int32 sums or float values that an operator on codes gives.

    None when it has no integer arithmetic.

    With `saturating`, products clip as on x86 CPUs without VNNI.
    """
    arrays = [operand if isinstance(operand, np.ndarray) else None for operand in operands]
    operator = operator_of(node)
    if node.op == "DynamicQuantizeMatMul":
        operator, arrays = OPERATORS["MatMulIntegerToFloat"], _quantized_dynamically(*operands)
    kernel = None if operator is None else kernel_of(operator.op, saturating)
    if operator is None or kernel is None or node.attribute("channels_last", 0):
        return None
    grids: list[Operand] = []
    for position, (codes, scale, zero) in enumerate(operator.operands):
        axis = operator.weight_axis(node) if position else 0
        grids.append(_grid(_at(arrays, codes), _at(arrays, scale), _at(arrays, zero), axis))
    bias = None if operator.bias is None else _at(arrays, operator.bias)
    if bias is not None and bias.dtype.kind == "i":
        grids.append(_on_grid_of_sums(bias, [grid.scale for grid in grids if isinstance(grid, Grid)]))
    found = kernel(node, grids)
    if operator.output == _SUMS:
        return found.terms()[0].integers.astype(np.int32) if isinstance(found, Pending) else None
    if not isinstance(found, Grid | Pending):
        return None
    step, offset = _at(arrays, operator.output[0]), _at(arrays, operator.output[1])
    if step is None:
        return found.real() + bias if bias is not None and bias.dtype.kind == "f" else found.real()
    dtype = np.dtype(np.uint8) if offset is None else offset.dtype
    code = 0 if offset is None else int(offset.reshape(-1)[0])
    return on_grid(found, np.float32(step.reshape(-1)[0]), code, dtype, kind, node.label)


def _quantized_dynamically(*operands: Operand) -> list[Array | None]:
    """Operands of DynamicQuantizeMatMul as MatMulIntegerToFloat takes them: the data quantized by their own range."""
    real, weight, weight_scale, weight_zero, bias = (*(_real(operand) for operand in operands), None, None)[:5]
    if real is None or not real.size:
        return []
    low, high = min(np.float32(0), real.min()), max(np.float32(0), real.max())
    scale = np.float32((high - low) / np.float32(255)) or np.float32(1)
    zero = np.clip(np.rint(-low / scale), 0, 255)
    codes = np.clip(np.rint(real / scale) + zero, 0, 255).astype(np.uint8)
    return [codes, weight, np.asarray(scale), weight_scale, np.asarray(zero, np.uint8), weight_zero, bias]


def _on_grid_of_sums(bias: Array, scales: Sequence[Array]) -> Grid:
    """Return the int32 bias of an operator on codes, whose scale is by definition the product of the operands'."""
    data, weight = scales
    product = np.asarray(data.reshape(1) * weight.reshape(-1), np.float32)
    codes = np.broadcast_to(bias.astype(np.int32), np.broadcast_shapes(bias.shape, product.shape))
    return Grid(codes, product, np.zeros((), np.int32), 32)


def _real(operand: Operand) -> Array | None:
    return operand.real() if isinstance(operand, Grid | Pending) else operand


def _at(arrays: Sequence[Array | None], index: int) -> Array | None:
    return arrays[index] if 0 <= index < len(arrays) else None


def _grid(codes: Array | None, scale: Array | None, zero: Array | None, axis: int) -> Grid | None:
    if codes is None:
        return None
    steps = np.ones((), np.float32) if scale is None else scale.astype(np.float32)
    zeros = np.zeros((), np.int32) if zero is None else zero.astype(np.int32)
    limits = integer_limits(codes.dtype)
    grid = (_along(steps, codes, axis), _along(zeros, codes, axis))
    return Grid(codes.astype(np.int32), *grid, int(limits.bits), limits.min < 0)


def _along(parameters: Array, codes: Array, axis: int) -> Array:
    """Return one parameter, or one a channel, shaped to broadcast against the codes."""
    if parameters.size == 1:
        return parameters.reshape(())
    shape = [1] * codes.ndim
    shape[axis] = -1
    return parameters.reshape(shape)
