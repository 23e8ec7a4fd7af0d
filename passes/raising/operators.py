"""Rules that raise operators on codes (QLinearConv and its kin) into float operators between quantizers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np

from qir.graph import Node, Value
from qir.passes.analysis.affine import Reject
from qir.passes.analysis.constants import array_of, frozen
from qir.passes.raising.grids import spec_of
from qir.passes.raising.qdq import CODES, QUANTIZE, twin_type
from qir.passes.raising.state import RaiseState, Twin, base_name, element_of, grid_at
from qir.rewriting.engine import Match, Pattern, Plan, Rewriter, Rule, any_value, constant, either, op


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
        plain: indices of operands in front of the others that are not codes.
    """

    op: str
    operands: tuple[tuple[int, int, int], ...]
    output: tuple[int, int]
    weight_axis: Callable[[Node], int] = lambda _: 0
    bias: int | None = None
    dropped: tuple[str, ...] = ()
    plain: tuple[int, ...] = ()


def _gemm_axis(node: Node) -> int:
    return 0 if node.attribute("transB", 0) else 1


MICROSOFT = "com.microsoft"
"""Domain of ONNX Runtime's own operators."""

Given = Callable[[Rewriter], Value | None]
"""Hands out an operand that is there, or None for one that is left out."""

_UNARY = ((0, 1, 2),)
_BINARY = ((0, 1, 2), (3, 4, 5))
_STANDARD = {
    "QLinearConv": FloatForm("Conv", _BINARY, (6, 7), bias=8),
    "QLinearMatMul": FloatForm("MatMul", _BINARY, (6, 7), weight_axis=lambda _: 1),
}
_MICROSOFT = {
    "QGemm": FloatForm("Gemm", _BINARY, (7, 8), weight_axis=_gemm_axis, bias=6),
    "QLinearAdd": FloatForm("Add", _BINARY, (6, 7)),
    "QLinearMul": FloatForm("Mul", _BINARY, (6, 7)),
    "QLinearAveragePool": FloatForm("AveragePool", _UNARY, (3, 4), dropped=("channels_last",)),
    "QLinearGlobalAveragePool": FloatForm("GlobalAveragePool", _UNARY, (3, 4), dropped=("channels_last",)),
    "QLinearSigmoid": FloatForm("Sigmoid", _UNARY, (3, 4)),
    "QLinearLeakyRelu": FloatForm("LeakyRelu", _UNARY, (3, 4)),
    "QLinearSoftmax": FloatForm("Softmax", _UNARY, (3, 4), dropped=("opset",)),
}
_WHERE = FloatForm("Where", ((1, 2, 3), (4, 5, 6)), (7, 8), plain=(0,))


def operator_rules(state: RaiseState) -> tuple[Rule, ...]:
    """Return the rules for operators on codes: the float operator on their twins, with QuantizeLinear after it.

    A rule's pattern names the first operand on codes; how the others are read is asked of each operator's float form.
    """
    codes, other = either(CODES, constant()), any_value()

    def on_codes(pattern: Pattern, form: Callable[[Node], FloatForm]) -> Rule:
        return Rule("codes-to-floats", pattern, plan=partial(_plan, state, form))

    return (
        on_codes(op(tuple(_STANDARD), codes, ...), lambda node: _STANDARD[node.op]),
        on_codes(op(tuple(_MICROSOFT), codes, ..., domain=MICROSOFT), lambda node: _MICROSOFT[node.op]),
        on_codes(op("QLinearWhere", other, codes, ..., domain=MICROSOFT), lambda _: _WHERE),
        on_codes(op("QLinearConcat", constant(), other, codes, ..., domain=MICROSOFT), _concat),
    )


def _plan(state: RaiseState, form_of: Callable[[Node], FloatForm], match: Match) -> Reject | Plan:
    node, form = match.root, form_of(match.root)
    if node.attribute("channels_last", 0):
        return Reject("its channels come last", node)
    operands = _operands(node, form, state)
    if isinstance(operands, Reject):
        return operands
    scale, zero = form.output
    if node.input(scale) is not None:
        grid = grid_at(node, scale, zero, None, element_of(node.result) if node.input(zero) is None else None)
        spec = grid if isinstance(grid, Reject) else spec_of(grid)
        if isinstance(spec, Reject):
            return spec

    def change(rewriter: Rewriter) -> None:
        attributes = {k: v for k, v in node.attributes.items() if k not in form.dropped}
        inputs = [make(rewriter) for make in operands]
        made = Node(form.op, inputs, name=base_name(node.name), attributes=attributes)
        made.result.type = twin_type(node.result)
        grid = node.input(scale), node.input(zero)
        if grid[0] is None:
            rewriter.replace(node, [made])
        else:
            # The result gets a name here, because the quantizer that the next rule makes is called after it.
            made.result.name = state.clock.unique_name(made.name or made.op.lower())
            codes = Node(QUANTIZE, (made.result, *grid), name=_result_name(node, made))
            rewriter.replace(node, [made, codes])

    return change


def _result_name(node: Node, made: Node) -> str:
    """Return the quantizer's name: that of the codes where it tells one, else the node's."""
    name = base_name(node.result.name.removesuffix(".before"))
    return name if name != node.result.name else f"{made.name or made.result.name}.output"


def _operands(node: Node, form: FloatForm, state: RaiseState) -> list[Twin | Given] | Reject:
    """Return what makes each operand of the float operator, data first: it is known before weights are looked at."""
    found: list[Twin | Given] = [partial(_given, node.input(index)) for index in form.plain]
    scales = []
    for position, (codes, scale, zero) in enumerate(form.operands):
        axis = form.weight_axis(node) if position else None
        grid = grid_at(node, scale, zero, axis, element_of(node.input(codes)))
        if isinstance(grid, Reject):
            return grid
        twin = state.twin(node.input(codes), grid, node)
        if isinstance(twin, Reject):
            return twin
        found.append(twin)
        scales.append(grid.scale)
    bias = None if form.bias is None else node.input(form.bias)
    if bias is not None:
        codes_of_bias = array_of(bias)
        if codes_of_bias is None:
            return Reject("its bias is not constant", bias)
        factor = np.asarray(scales[0] * scales[1], np.float64) * node.attribute("alpha", 1.0)
        values = (codes_of_bias * factor).astype(np.float32)
        name = base_name(bias.name)
        found.append(lambda _: node.scope.add_constant(state.clock.unique_name(name), frozen(values)))
    return found


def _given(value: Value | None, _: Rewriter) -> Value | None:
    return value


def _concat(node: Node) -> FloatForm:
    triples = tuple((index, index + 1, index + 2) for index in range(2, len(node.inputs), 3))
    return FloatForm("Concat", triples, (0, 1))
