"""Quantized networks as the float networks that their codes stand for: what other widths are searched from."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import ClassVar

import numpy as np

from qir.errors import PassError
from qir.graph import FAKE_QUANT, QIR_DOMAIN, Node, Value
from qir.module import Module
from qir.ops import op_of
from qir.passes.analysis.constants import array_of, frozen, is_standard
from qir.passes.infrastructure.contract import Pass, PassContext
from qir.passes.raising.driver import RaiseQuantized
from qir.passes.raising.integers import OPS as INTEGER_LAYERS
from qir.passes.raising.operators import MICROSOFT
from qir.passes.raising.qdq import twin_type
from qir.passes.simplify.eliminate.dead_code import EliminateDeadCode
from qir.passes.simplify.infer_types import InferTypes
from qir.rewriting.engine import Match, Plan, Reject, Rewriter, Rule, any_value, either, op, rewrite
from qir.tensor import Array

Make = Callable[[], Value]
"""Hands out an operand; constants are made when the graph is changed."""

_MOVING = ("Reshape", "Unsqueeze")
"""What may stand between an integer bias and the sums."""

_ROUNDING = ("Cast", "Floor", "Round")
"""What makes an integer bias of the quotient of a float one and the scale of the sums."""


@dataclass(frozen=True)
class Dequantize(Pass):
    """Write a quantized network as the float network that its codes stand for.

    - What `raise-quantized` raises: weights become the floats of their codes, quantizers of activations go.
    - What ONNX Runtime's `quantize_dynamic` writes: MatMulInteger and ConvInteger between DynamicQuantizeLinear and the
      multiplication by both scales become MatMul and Conv, com.microsoft's DynamicQuantizeMatMul, MatMulIntegerToFloat
      and DynamicQuantizeLSTM become MatMul and LSTM, each with its bias; tables of codes that Gather reads, floats.

    The result has the rounding of the file's weights and none of its activations. Quantized again, weights are rounded
    once more where the new grid is not the file's.

    Raises:
        PassError: sums of codes have none of these forms.
    """

    name: ClassVar[str] = "dequantize"

    def run(self, module: Module, context: PassContext) -> bool:
        """Dequantize; True when a node was replaced."""
        changed = context.run(RaiseQuantized(), module)
        for graph in module.graphs:
            changed |= bool(rewrite(graph, _RULES))
            for node in graph.walk():
                if node.op in _OF_CODES:
                    raise _unknown(node)
        if changed:
            context.run(EliminateDeadCode(), module)
            context.run(InferTypes(), module)
        return changed


def _integer_layer(match: Match) -> Reject | Plan:
    """MatMulInteger or ConvInteger up to the multiplication by the scales: MatMul or Conv, with its bias."""
    node, last, factor = match.node("sums"), match.root, match["factor"].producer
    bias = _numerator(match["bias"]) if "bias" in match.values else None
    if "bias" in match.values and bias is None:
        return Reject("what is added to its sums is not a float bias divided by a scale", match["bias"])
    scales = [match["factor"]] if factor is None or not is_standard(factor, "Mul") else list(factor.operands)
    operands = [_operand(node, index, scales) for index in (0, 1)]
    kind = INTEGER_LAYERS[node.op]

    def change(rewriter: Rewriter) -> None:
        own = [make() for make in operands]
        within = [bias] if kind == "Conv" and bias is not None else []
        _put(rewriter, last, node, kind, [*own, *within], None if within else bias)

    return change


def _matmul(scale: int, zero: int, bias: int, data_scale: int | None = None) -> Callable[[Match], Reject | Plan]:
    """Return a layer of com.microsoft that multiplies by the scales itself, by the indices of its operands."""

    def plan(match: Match) -> Reject | Plan:
        node = match.root
        data = node.operand(0) if data_scale is None else _quantized_at_run_time(node.input(0))
        if data is None:
            return Reject("its data are not quantized at run time", node)
        weight = _constant_weight(node, 1, array_of(node.input(zero)), array_of(node.input(scale)))
        return lambda rewriter: _put(rewriter, node, node, "MatMul", [data, weight()], node.input(bias))

    return plan


def _lstm(match: Match, rewriter: Rewriter) -> None:
    """DynamicQuantizeLSTM: LSTM, whose weights are [directions, 4 hidden, inputs] and not transposed."""
    node = match.root
    weights = [
        _constant_weight(node, index, array_of(node.input(zero)), array_of(node.input(zero - 1)), transpose=(0, 2, 1))()
        for index, zero in ((1, 9), (2, 11))
    ]
    operands = [node.input(0), *weights, *node.inputs[3:8]]
    attributes = dict(node.attributes)
    rewriter.replace(node, [Node("LSTM", operands, len(node.results), name=node.name, attributes=attributes)])


def _table(match: Match) -> Reject | Plan:
    """DequantizeLinear of codes that operators which keep a grid take from a constant: the same from its floats."""
    node = match.root
    path, value = list[tuple[Node, int]](), node.operand(0)
    while value.producer is not None:
        index = op_of(value.producer).grid_operand(value.producer)
        if index is None:
            return Reject("it does not keep the grid of its codes", value.producer)
        path.append((value.producer, index))
        value = value.producer.operand(index)
    scale = array_of(node.input(1))
    if not path or scale is None or scale.size > 1:
        return Reject("its codes have no constant scale", node)
    constant = _constant_weight(*path[-1], array_of(node.input(2)), scale)

    def change(rewriter: Rewriter) -> None:
        made, twins = constant(), []
        for keeper, index in reversed(path):
            inputs = [*keeper.inputs[:index], made, *keeper.inputs[index + 1 :]]
            twins.append(Node(keeper.op, inputs, domain=keeper.domain, attributes=dict(keeper.attributes)))
            made = twins[-1].result
            made.type = twin_type(keeper.result)
        rewriter.replace(node, twins)

    return change


def _drop(match: Match, rewriter: Rewriter) -> None:
    rewriter.replace(match.root, [], [match["x"]])


_SUMS = op(tuple(INTEGER_LAYERS), any_value(), any_value(), ..., name="sums", only_use=True)
_BIASED = op("Add", _SUMS, any_value("bias"), commutes=True, only_use=True)
_REAL = op("Mul", op("Cast", either(_BIASED, _SUMS), only_use=True), any_value("factor"), commutes=True)
_RULES = (
    Rule("integer-layer", _REAL, plan=_integer_layer),
    Rule("dynamic-matmul", op("DynamicQuantizeMatMul", domain=MICROSOFT), plan=_matmul(scale=2, zero=3, bias=4)),
    Rule(
        "integer-to-float",
        op("MatMulIntegerToFloat", domain=MICROSOFT),
        plan=_matmul(scale=3, zero=5, bias=6, data_scale=2),
    ),
    Rule("dynamic-lstm", op("DynamicQuantizeLSTM", domain=MICROSOFT), _lstm),
    Rule("table-of-codes", op("DequantizeLinear"), plan=_table),
    Rule("drop-quantizer", op(FAKE_QUANT, any_value("x"), domain=QIR_DOMAIN), _drop),
)
_OF_CODES = {
    *INTEGER_LAYERS,
    "DynamicQuantizeMatMul",
    "MatMulIntegerToFloat",
    "DynamicQuantizeLSTM",
    "DequantizeLinear",
}


def _operand(node: Node, index: int, scales: list[Value]) -> Make:
    """Return the float operand of an integer layer; its scale is one of those that its sums are multiplied by."""
    data = _quantized_at_run_time(node.input(index))
    if data is not None:
        if all(scale.producer is not node.operand(index).producer for scale in scales):
            raise _unknown(node)
        return lambda: data
    known = [array for array in map(array_of, scales) if array is not None]
    return _constant_weight(node, index, array_of(node.input(2 + index)), known[0] if len(known) == 1 else None)


def _quantized_at_run_time(value: Value | None) -> Value | None:
    """Return what DynamicQuantizeLinear made these codes of."""
    producer = None if value is None else value.producer
    return producer.operand(0) if producer is not None and is_standard(producer, "DynamicQuantizeLinear") else None


def _constant_weight(
    node: Node, index: int, zeros: Array | None, scale: Array | None, *, transpose: tuple[int, ...] | None = None
) -> Make:
    codes = array_of(node.input(index))
    if codes is None or scale is None:
        raise _unknown(node)
    shift = np.zeros(1) if zeros is None else _along(zeros, codes.shape, node)
    floats = (codes.astype(np.float32) - shift.astype(np.float32)) * _along(scale, codes.shape, node)
    name = f"{node.operand(index).name}.float"
    made = np.ascontiguousarray(floats.transpose(transpose) if transpose else floats, np.float32)
    return partial(node.scope.add_constant, name, frozen(made))


def _along(parameters: Array, shape: tuple[int, ...], node: Node) -> Array:
    """Scales or zero points so that they spread over the codes: one, one a column, one a kernel, one a direction."""
    if parameters.size == 1:
        return parameters.reshape(())
    if node.op == "ConvInteger":
        return parameters.reshape(-1, *[1] * (len(shape) - 1))
    if len(shape) == 3 and node.op == "DynamicQuantizeLSTM":
        return parameters.reshape(shape[0], 1, -1)
    return parameters


def _numerator(value: Value) -> Value | None:
    """Return the float bias that an integer one was made of: Div by the scale of the sums, rounded.

    None where it is not.
    """
    while value.producer is not None and is_standard(value.producer, *_MOVING, *_ROUNDING):
        value = value.producer.operand(0)
    quotient = value.producer
    return quotient.operand(0) if quotient is not None and is_standard(quotient, "Div") else None


def _put(rewriter: Rewriter, last: Node, node: Node, op: str, operands: list[Value], bias: Value | None) -> None:
    """Put a float layer, and the Add with its bias, in the place of `last`."""
    made = [Node(op, operands, name=node.name, attributes={} if op == "MatMul" else dict(node.attributes))]
    if bias is not None:
        made[0].result.type = twin_type(last.result)
        made.append(Node("Add", (made[0].result, bias), name=f"{node.label}.bias"))
    rewriter.replace(last, made)


def _unknown(node: Node) -> PassError:
    return PassError(
        f"node {node.label!r} ({node.op}) computes on codes, in a form that is not that of "
        "ONNX Runtime's quantize_dynamic: give the float network that this one was made from"
    )
