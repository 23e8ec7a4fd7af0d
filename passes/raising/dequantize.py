"""Quantized networks as the float networks that their codes stand for: what other widths are searched from."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from qir.errors import PassError
from qir.graph import Node, Value
from qir.module import Module
from qir.ops import op_of
from qir.passes.analysis.constants import array_of, frozen, is_standard
from qir.passes.infrastructure.contract import Pass, PassContext
from qir.passes.raising.driver import RaiseQuantized
from qir.passes.raising.integers import OPS as INTEGER_LAYERS
from qir.passes.raising.qdq import twin_type
from qir.passes.simplify.eliminate.dead_code import EliminateDeadCode
from qir.passes.simplify.infer_types import InferTypes
from qir.tensor import Array

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
            for node in graph.nodes:
                if node.op in _RULES:
                    _RULES[node.op](node)
                    changed = True
        for quantizer in [node for graph in module.graphs for node in graph.fake_quants()]:
            quantizer.result.replace_all_uses_with(quantizer.operands[0])
            changed = True
        if changed:
            context.run(EliminateDeadCode(), module)
            context.run(InferTypes(), module)
        return changed


def _integer_layer(node: Node) -> None:
    """MatMulInteger or ConvInteger up to the multiplication by the scales: MatMul or Conv, with its bias."""
    value, user, bias = node.result, _only_user(node.result), None
    if user is not None and is_standard(user, "Add"):
        bias, value, user = _numerator(_other(user, value)), user.result, _only_user(user.result)
        if bias is None:
            raise _unknown(node)
    if user is None or not is_standard(user, "Cast"):
        raise _unknown(node)
    value, user = user.result, _only_user(user.result)
    if user is None or not is_standard(user, "Mul"):
        raise _unknown(node)
    factor = _other(user, value).producer
    scales = [_other(user, value)] if factor is None or not is_standard(factor, "Mul") else list(factor.operands)
    operands = [_operand(node, 0, scales), _operand(node, 1, scales)]
    _replace(user, INTEGER_LAYERS[node.op], operands, bias, node)


def _matmul(scale: int, zero: int, bias: int, data_scale: int | None = None) -> Callable[[Node], None]:
    """Return a layer of com.microsoft that multiplies by the scales itself, by the indices of its operands."""

    def rule(node: Node) -> None:
        data = node.operand(0) if data_scale is None else _quantized_at_run_time(node.input(0))
        if data is None:
            raise _unknown(node)
        weight = _constant_weight(node, 1, array_of(node.input(zero)), array_of(node.input(scale)))
        _replace(node, "MatMul", [data, weight], node.input(bias), node)

    return rule


def _lstm(node: Node) -> None:
    """DynamicQuantizeLSTM: LSTM, whose weights are [directions, 4 hidden, inputs] and not transposed."""
    weights = [
        _constant_weight(node, index, array_of(node.input(zero)), array_of(node.input(zero - 1)), transpose=(0, 2, 1))
        for index, zero in ((1, 9), (2, 11))
    ]
    made = Node(
        "LSTM",
        [node.input(0), *weights, *node.inputs[3:8]],
        len(node.results),
        name=node.name,
        attributes=dict(node.attributes),
    )
    node.scope.insert(made, before=node)
    for old, new in zip(node.results, made.results, strict=True):
        new.type = old.type
        old.replace_all_uses_with(new)


def _table(node: Node) -> None:
    """DequantizeLinear of codes that operators which keep a grid take from a constant: the same from its floats."""
    path, value = list[tuple[Node, int]](), node.operand(0)
    while value.producer is not None:
        index = op_of(value.producer).grid_operand(value.producer)
        if index is None:
            raise _unknown(node)
        path.append((value.producer, index))
        value = value.producer.operand(index)
    scale = array_of(node.input(1))
    if not path or scale is None or scale.size > 1:
        raise _unknown(node)
    last, index = path[-1]
    made = _constant_weight(last, index, array_of(node.input(2)), scale)
    for keeper, index in reversed(path):
        inputs = [*keeper.inputs[:index], made, *keeper.inputs[index + 1 :]]
        twin = Node(keeper.op, inputs, domain=keeper.domain, attributes=dict(keeper.attributes))
        made = node.scope.insert(twin, before=node).result
        made.type = twin_type(keeper.result)
    node.result.replace_all_uses_with(made)


_RULES: dict[str, Callable[[Node], None]] = {
    **dict.fromkeys(INTEGER_LAYERS, _integer_layer),
    "DynamicQuantizeMatMul": _matmul(scale=2, zero=3, bias=4),
    "MatMulIntegerToFloat": _matmul(scale=3, zero=5, bias=6, data_scale=2),
    "DynamicQuantizeLSTM": _lstm,
    "DequantizeLinear": _table,
}


def _operand(node: Node, index: int, scales: list[Value]) -> Value:
    """Return the float operand of an integer layer; its scale is one of those that its sums are multiplied by."""
    data = _quantized_at_run_time(node.input(index))
    if data is not None:
        if all(scale.producer is not node.operand(index).producer for scale in scales):
            raise _unknown(node)
        return data
    known = [array for array in map(array_of, scales) if array is not None]
    return _constant_weight(node, index, array_of(node.input(2 + index)), known[0] if len(known) == 1 else None)


def _quantized_at_run_time(value: Value | None) -> Value | None:
    """Return what DynamicQuantizeLinear made these codes of."""
    producer = None if value is None else value.producer
    return producer.operand(0) if producer is not None and is_standard(producer, "DynamicQuantizeLinear") else None


def _constant_weight(
    node: Node, index: int, zeros: Array | None, scale: Array | None, *, transpose: tuple[int, ...] | None = None
) -> Value:
    codes = array_of(node.input(index))
    if codes is None or scale is None:
        raise _unknown(node)
    shift = np.zeros(1) if zeros is None else _along(zeros, codes.shape, node)
    floats = (codes.astype(np.float32) - shift.astype(np.float32)) * _along(scale, codes.shape, node)
    name = f"{node.operand(index).name}.float"
    made = np.ascontiguousarray(floats.transpose(transpose) if transpose else floats, np.float32)
    return node.scope.add_constant(name, frozen(made))


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


def _replace(last: Node, op: str, operands: list[Value], bias: Value | None, node: Node) -> None:
    graph, attributes = node.scope, {} if op == "MatMul" else dict(node.attributes)
    own = [*operands, bias] if bias is not None and op == "Conv" else operands
    made = graph.insert(Node(op, own, name=node.name, attributes=attributes), before=last)
    made.result.type = twin_type(last.result)
    if bias is not None and op != "Conv":
        made = graph.insert(Node("Add", (made.result, bias), name=f"{node.name}.bias"), before=last)
        made.result.type = twin_type(last.result)
    last.result.replace_all_uses_with(made.result)


def _only_user(value: Value) -> Node | None:
    return value.users[0] if len(value.uses) == 1 else None


def _other(node: Node, value: Value) -> Value:
    return node.operand(1) if node.input(0) is value else node.operand(0)


def _unknown(node: Node) -> PassError:
    return PassError(
        f"node {node.label!r} ({node.op}) computes on codes, in a form that is not that of "
        "ONNX Runtime's quantize_dynamic: give the float network that this one was made from"
    )
