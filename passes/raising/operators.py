"""Operators on codes (QLinearConv and its kin) raised into float operators after a fake-quant node."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from qir.graph import Node, Value
from qir.passes.analysis.affine import Reject
from qir.passes.analysis.constants import array_of, frozen
from qir.passes.raising.qdq import clips_after, limited, put_on_grid, twin_type
from qir.passes.raising.state import RaiseState, base_name, element_of, grid_at


@dataclass(frozen=True)
class FloatForm:
    """How an operator on codes is written in float.

    Attributes:
        op: float operator.
        operands: (codes, scale, zero point) indices of each data operand.
        output: (scale, zero point) indices of the result.
        weight_axis: channel axis of the second operand's scales.
        bias: index of the int32 bias, whose scale is the product of the operands' scales.
        dropped: attributes that the float operator does not have.
        domain: domain of the operator on codes.
        plain: indices of operands in front of the others that are not codes.
    """

    op: str
    operands: tuple[tuple[int, int, int], ...]
    output: tuple[int, int]
    weight_axis: Callable[[Node], int] = lambda _: 0
    bias: int | None = None
    dropped: tuple[str, ...] = ()
    domain: str = "com.microsoft"
    plain: tuple[int, ...] = ()


def _gemm_axis(node: Node) -> int:
    return 0 if node.attribute("transB", 0) else 1


_UNARY = ((0, 1, 2),)
_BINARY = ((0, 1, 2), (3, 4, 5))
_OPERATORS = {
    "QLinearConv": FloatForm("Conv", _BINARY, (6, 7), bias=8, domain=""),
    "QLinearMatMul": FloatForm("MatMul", _BINARY, (6, 7), weight_axis=lambda _: 1, domain=""),
    "QGemm": FloatForm("Gemm", _BINARY, (7, 8), weight_axis=_gemm_axis, bias=6),
    "QLinearAdd": FloatForm("Add", _BINARY, (6, 7)),
    "QLinearMul": FloatForm("Mul", _BINARY, (6, 7)),
    "QLinearAveragePool": FloatForm("AveragePool", _UNARY, (3, 4), dropped=("channels_last",)),
    "QLinearGlobalAveragePool": FloatForm("GlobalAveragePool", _UNARY, (3, 4), dropped=("channels_last",)),
    "QLinearSigmoid": FloatForm("Sigmoid", _UNARY, (3, 4)),
    "QLinearLeakyRelu": FloatForm("LeakyRelu", _UNARY, (3, 4)),
    "QLinearSoftmax": FloatForm("Softmax", _UNARY, (3, 4), dropped=("opset",)),
    "QLinearWhere": FloatForm("Where", ((1, 2, 3), (4, 5, 6)), (7, 8), plain=(0,)),
}


def raise_operator(node: Node, state: RaiseState) -> None:
    """Write an operator on codes as the float operator on the twins, and put the result on its grid."""
    operator = _concat(node) if node.op == "QLinearConcat" else _OPERATORS.get(node.op)
    if operator is None or node.domain not in {operator.domain, operator.domain or "ai.onnx"}:
        state.leave(node, f"{node.op} is not known")
        return
    if node.attribute("channels_last", 0):
        state.leave(node, "its channels come last")
        return
    operands = _operands(node, operator, state)
    if isinstance(operands, Reject):
        state.leave(node, operands.reason)
        return
    attributes = {k: v for k, v in node.attributes.items() if k not in operator.dropped}
    made = Node(operator.op, operands, name=base_name(node.name), attributes=attributes)
    made.result.type = twin_type(node.result)
    state.graph.insert(made, after=node)
    _place_result(node, made, operator, state)


def _place_result(node: Node, made: Node, operator: FloatForm, state: RaiseState) -> None:
    scale, zero = operator.output
    if node.input(scale) is None:
        node.result.replace_all_uses_with(made.result)
        return
    grid = grid_at(node, scale, zero, None, element_of(node.result) if node.input(zero) is None else None)
    found = grid if isinstance(grid, Reject) else clips_after(node, grid, state)
    if found is None or isinstance(found, Reject):
        state.graph.erase(made)
        state.leave(node, found.reason if found is not None else "a Clip on its codes has bounds that are not constant")
        return
    bounded = limited(made.result, found, state, made)
    after = bounded.producer or made
    twin = put_on_grid(bounded, found.grid, state, _result_name(node, made), after)
    if isinstance(twin, Reject):
        for extra in dict.fromkeys((after, made)):
            state.graph.erase(extra)
        state.leave(node, twin.reason)
        return
    for value in found.results:
        state.twins[value] = (twin, found.grid)


def _result_name(node: Node, made: Node) -> str:
    """Return the quantizer's name: that of the codes where it tells one, else the node's."""
    name = base_name(node.result.name.removesuffix(".before"))
    return name if name != node.result.name else f"{made.name or made.result.name}.output"


def _operands(node: Node, operator: FloatForm, state: RaiseState) -> list[Value | None] | Reject:
    found = [node.input(index) for index in operator.plain]
    scales = []
    for position, (codes, scale, zero) in enumerate(operator.operands):
        axis = operator.weight_axis(node) if position else None
        grid = grid_at(node, scale, zero, axis, element_of(node.input(codes)))
        if isinstance(grid, Reject):
            return grid
        twin = state.twin(node.input(codes), grid)
        if isinstance(twin, Reject):
            return twin
        found.append(twin)
        scales.append(grid.scale)
    bias = None if operator.bias is None else node.input(operator.bias)
    if bias is not None:
        codes_of_bias = array_of(bias)
        if codes_of_bias is None:
            return Reject("its bias is not constant")
        factor = np.asarray(scales[0] * scales[1], np.float64) * node.attribute("alpha", 1.0)
        values = (codes_of_bias * factor).astype(np.float32)
        name = state.graph.clock.unique_name(base_name(bias.name))
        found.append(state.graph.add_constant(name, frozen(values)))
    return found


def _concat(node: Node) -> FloatForm:
    triples = tuple((index, index + 1, index + 2) for index in range(2, len(node.inputs), 3))
    return FloatForm("Concat", triples, (0, 1))
