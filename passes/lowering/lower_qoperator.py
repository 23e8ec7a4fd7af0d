"""Lowering of a QDQ network to operators on codes: QLinearConv and its kin, as ONNX Runtime runs them.

Runs after `lower-qcdq`. A layer between DequantizeLinear and QuantizeLinear becomes one operator on codes; Relu and
Clip between layer and quantizer become a Clip on codes, which is exact because rounding keeps order. A layer without a
quantizer after it becomes ConvInteger or MatMulInteger with its int32 bias and one multiplication. Operators that keep
a grid (max pooling, reshapes) run on codes. What has no form on codes stays between DequantizeLinear and
QuantizeLinear.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from qir.attributes import Attribute
from qir.constants import require_array
from qir.graph import Graph, Node, Value
from qir.module import Module
from qir.ops import op_of
from qir.passes.analysis.constants import array_of, is_standard
from qir.passes.analysis.quantized_layers import activation_bounds
from qir.passes.infrastructure.contract import Pass, PassContext
from qir.passes.lowering.holdings import Legalization
from qir.passes.lowering.legalize import legalization
from qir.passes.lowering.parts.chain import Chain
from qir.passes.lowering.parts.marks import KEY, marked_codes
from qir.passes.simplify.eliminate.dead_code import EliminateDeadCode
from qir.tensor import Tensor
from qir.types import DType

MICROSOFT = "com.microsoft"

_UNARY = {
    "AveragePool": "QLinearAveragePool",
    "GlobalAveragePool": "QLinearGlobalAveragePool",
    "Sigmoid": "QLinearSigmoid",
    "LeakyRelu": "QLinearLeakyRelu",
}
_BINARY = {"Add": "QLinearAdd", "Mul": "QLinearMul"}
_LAYERS = {"Conv": "QLinearConv", "MatMul": "QLinearMatMul", "Gemm": "QGemm"}
_MOVED = ("MaxPool", "Reshape", "Flatten", "Transpose", "Squeeze", "Unsqueeze", "Slice", "Identity")


@dataclass(frozen=True)
class Dequantized:
    """A value that a DequantizeLinear makes: its codes, scale and zero point."""

    codes: Value
    scale: Value
    zero_point: Value

    @property
    def triple(self) -> tuple[Value, Value, Value]:
        """Codes, scale, zero point."""
        return self.codes, self.scale, self.zero_point


@dataclass(frozen=True)
class LowerQoperator(Pass):
    """Replace layers between DequantizeLinear and QuantizeLinear by operators on codes.

    Verified IR in, verified IR out; the network computes what ONNX Runtime's fused kernels compute of the QDQ form.
    """

    name: ClassVar[str] = "lower-qoperator"

    def run(self, module: Module, context: PassContext) -> bool:
        """Lower the main graph; True when a layer became an operator on codes."""
        before, found = module.version, legalization(module, context)
        for node in module.graph.nodes:
            if node.graph is not None and not node.is_return:
                _lower(module.graph, node, found)
        if any(node.domain == MICROSOFT for node in module.graph):
            module.opsets.setdefault(MICROSOFT, 1)
        marked = marked_codes(module.graph)
        context.run(EliminateDeadCode(), module)
        for node, maker, text in marked:
            if node.graph is None:
                maker.metadata[KEY] = text
        return module.version != before


def _lower(graph: Graph, node: Node, found: Legalization) -> None:
    if node.domain not in {"", "ai.onnx"}:
        return
    if node.op in _MOVED and _move(graph, node):
        return
    operands = [dequantized(value) for value in node.inputs]
    quantize, activations = quantizer_after(node)
    if quantize is None:
        if node.op in _LAYERS:
            _integer_layer(graph, node, operands, found)
        return
    made = _operator(node, operands, quantize)
    if made is not None:
        _replace(graph, made, quantize, activations)


def dequantized(value: Value | None) -> Dequantized | None:
    """Return what a DequantizeLinear per tensor or per channel makes a value from, or None."""
    maker = None if value is None else value.producer
    if maker is None or not is_standard(maker, "DequantizeLinear") or maker.attribute("block_size", 0):
        return None
    codes, scale, zero = maker.input(0), maker.input(1), maker.input(2)
    return None if codes is None or scale is None or zero is None else Dequantized(codes, scale, zero)


def quantizer_after(node: Node) -> tuple[Node | None, tuple[Node, ...]]:
    """Return the QuantizeLinear that alone reads a node's result, and the activations in between."""
    value, between = node.result, list[Node]()
    while len(value.uses) == 1:
        user = value.users[0]
        if is_standard(user, "QuantizeLinear"):
            scale = user.input(1)
            per_tensor = scale is not None and scale.constant is not None and scale.constant.size == 1
            return (user if per_tensor else None), tuple(between)
        if user.is_return or not is_standard(user, "Relu", "Clip"):
            break
        between.append(user)
        value = user.result
    return None, ()


def _operator(node: Node, operands: list[Dequantized | None], quantize: Node) -> Node | None:
    """Return the operator on codes for a node, not yet wired to what follows; None where there is none."""
    output = (quantize.input(1), quantize.input(2))
    if not _has_kernel(node, [operand for operand in operands if operand is not None], output[1]):
        return None
    attributes: dict[str, Attribute | int] = dict(node.attributes)
    if node.op in _UNARY and operands[0] is not None:
        pooled = {"channels_last": 0} if "Pool" in node.op else {}
        return _node(node, _UNARY[node.op], (*operands[0].triple, *output), attributes | pooled)
    if any(operand is None for operand, value in zip(operands, node.inputs, strict=True) if value is not None):
        return None
    known = [operand for operand in operands if operand is not None]
    if node.op == "Concat":
        triples = [value for operand in known for value in operand.triple]
        return _node(node, "QLinearConcat", (*output, *triples), attributes)
    if node.op in _BINARY:
        return _node(node, _BINARY[node.op], (*known[0].triple, *known[1].triple, *output), attributes)
    if node.op not in _LAYERS or not _has_form(node):
        return None
    both = (*known[0].triple, *known[1].triple)
    bias = known[2].codes if len(known) > 2 else None
    if node.op == "MatMul":
        return _node(node, "QLinearMatMul", (*both, *output), attributes, domain="")
    if node.op == "Conv":
        return _node(node, "QLinearConv", (*both, *output, bias) if bias else (*both, *output), attributes, domain="")
    attributes.pop("beta", None)
    return _node(node, "QGemm", (*both, bias, *output), attributes)


def _has_kernel(node: Node, operands: list[Dequantized], zero_point: Value | None) -> bool:
    """Return whether ONNX Runtime computes on these element types.

    Data and result alike, signed data with signed weights.
    """
    result = array_of(zero_point)
    zeros = [array_of(operand.zero_point) for operand in operands[: 2 if node.op in _LAYERS else None]]
    if result is None or any(zero is None for zero in zeros):
        return False
    kinds = [zero.dtype for zero in zeros if zero is not None]
    if node.op in _LAYERS:
        return kinds[:1] == [result.dtype] and (result.dtype != np.int8 or kinds[1:] == [np.dtype(np.int8)])
    return all(kind == result.dtype for kind in kinds)


def _has_form(node: Node) -> bool:
    """Return whether a layer's factors are those of the operator on codes."""
    plain = node.attribute("alpha", 1.0) == 1.0 and node.attribute("beta", 1.0) == 1.0
    bias = dequantized(node.input(2)) if len(node.inputs) > 2 else None
    return plain and (bias is None or bias.codes.is_constant)


def _node(
    node: Node,
    op: str,
    inputs: tuple[Value | None, ...],
    attributes: Mapping[str, Attribute | int],
    domain: str = MICROSOFT,
) -> Node:
    return Node(op, inputs, domain=domain, name=node.name, attributes=attributes)


def _replace(graph: Graph, made: Node, quantize: Node, activations: tuple[Node, ...]) -> None:
    """Put the operator in the place of the quantizer, with a Clip on codes for the activations in between."""
    graph.insert(made, before=quantize)
    made.result.type = quantize.result.type
    last, name = made.result, quantize.result.name
    scale, zero = require_array(quantize.operand(1)), require_array(quantize.operand(2))
    limits = np.iinfo(zero.dtype)
    low, high = _bounded_codes(
        activations, float(scale.reshape(-1)[0]), int(zero.reshape(-1)[0]), limits.min, limits.max
    )
    quantize.result.name = graph.clock.unique_name(f"{name}.before")
    if (low, high) != (limits.min, limits.max):
        chain = Chain(graph, quantize, name)
        bounds = (
            chain.constant("least", np.asarray(low, zero.dtype)),
            chain.constant("most", np.asarray(high, zero.dtype)),
        )
        dtype = DType.from_label(str(zero.dtype))
        last = chain.node("Clip", (last, *bounds), "activation", quantize.result.type, dtype)
    quantize.result.replace_all_uses_with(last)
    graph.erase(quantize)
    last.name = name


def _move(graph: Graph, node: Node) -> bool:
    """Run an operator that keeps the grid on codes; False where its result has another grid or is not quantized."""
    index = op_of(node).grid_operand(node)
    source = None if index is None else dequantized(node.input(index))
    quantize, activations = quantizer_after(node)
    if index is None or source is None or quantize is None or activations or len(node.results) > 1:
        return False
    pairs = ((source.scale, quantize.input(1)), (source.zero_point, quantize.input(2)))
    if not all(_equal(first, second) for first, second in pairs):
        return False
    inputs = list(node.inputs)
    inputs[index] = source.codes
    made = Node(node.op, inputs, domain=node.domain, name=node.name, attributes=dict(node.attributes))
    _replace(graph, made, quantize, ())
    return True


def _equal(first: Value | None, second: Value | None) -> bool:
    left, right = array_of(first), array_of(second)
    return left is not None and right is not None and left.dtype == right.dtype and bool(np.array_equal(left, right))


def _integer_layer(graph: Graph, node: Node, operands: list[Dequantized | None], found: Legalization) -> None:
    """Lower a layer whose result stays float: int32 sums, the int32 bias, one multiplication by s_x·s_w."""
    data, weight = operands[0], operands[1]
    bias = operands[2] if len(operands) > 2 else None
    if data is None or weight is None or (len(node.inputs) > 2 and bias is None) or not _has_form(node):
        return
    scale, codes, zero = (array_of(value) for value in (weight.scale, weight.codes, weight.zero_point))
    step = array_of(data.scale)
    if scale is None or codes is None or zero is None or step is None or node.attribute("transA", 0):
        return
    if (zero != zero.reshape(-1)[0]).any():
        return
    op = "ConvInteger" if node.op == "Conv" else "MatMulInteger"
    offset = array_of(data.zero_point)
    kind = "" if offset is None else str(offset.dtype)
    if found.runtime.refuses(op, str(codes.dtype), kind, found.profile.session):
        return
    chain, like = Chain(graph, node, node.name or node.result.name), node.result.type
    right = weight.codes
    if node.attribute("transB", 0):
        right = graph.add_constant(f"{right.name}.transposed", Tensor.of(np.ascontiguousarray(codes.T)))
    offsets = (
        (data.zero_point, chain.constant("weight_zero_point", zero.reshape(-1)[0]))
        if zero.any()
        else (data.zero_point,)
    )
    value = chain.node(op, (data.codes, right, *offsets), "sums", like, DType.INT32)
    for name, attribute in node.attributes.items() if node.op == "Conv" else ():
        value.node.set_attribute(name, attribute)
    shape = _channel_last_shape(node)
    if bias is not None:
        constant = require_array(bias.codes)
        added = chain.constant("bias", constant.reshape(shape if constant.size > 1 else ()))
        value = chain.node("Add", (value, added), "biased", like, DType.INT32)
    value = chain.node("Cast", (value,), "real", like, to=DType.FLOAT32.onnx_code)
    product = (step.reshape(-1)[0] * scale).astype(np.float32)
    factor = chain.constant("scale", product.reshape(shape if product.size > 1 else ()))
    value = chain.node("Mul", (value, factor), "scaled", like)
    _take_place(graph, node, value)


def _channel_last_shape(node: Node) -> tuple[int, ...]:
    """Return the shape that lays one number a channel along the channels of a layer's result."""
    if node.op != "Conv":
        return (-1,)
    rank = node.result.rank
    return (-1, *(1,) * ((4 if rank is None else rank) - 2))


def _take_place(graph: Graph, node: Node, value: Value) -> None:
    name = node.result.name
    node.result.name = graph.clock.unique_name(f"{name}.before")
    node.result.replace_all_uses_with(value)
    graph.erase(node)
    value.name = name


def _bounded_codes(activations: Iterable[Node], scale: float, zero_point: int, low: int, high: int) -> tuple[int, int]:
    """Return the smallest and largest code after Relu and Clip nodes: rounding keeps order, so bounds pass through it.

    Args:
        activations: Relu and Clip nodes in front of the quantizer.
        scale: scale of the quantizer, rounded to float32.
        zero_point: of the quantizer.
        low: smallest code of the quantizer.
        high: largest code of the quantizer.
    """
    for node in activations:
        bounds = activation_bounds(node)
        first, last = (
            int(np.clip(np.rint(np.float32(bound) / np.float32(scale)) + zero_point, low, high)) for bound in bounds
        )
        low, high = first, last
    return low, high
