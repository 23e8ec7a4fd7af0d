"""Which layers x86 CPUs without VNNI compute exactly in ONNX Runtime, and why: of a network to be exported, or a file.

Two products of 8-bit codes can leave the int16 in which such CPUs add them (`qir.backends.execution.saturation`). A
layer is proven exact where no pair of codes can; files of other tools are judged by the same rule.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from qir.backends.execution.saturation import CodeRange, can_saturate
from qir.backends.integer.reference import DEQUANTIZE, QUANTIZE
from qir.backends.integer.saturation import turns_unsigned
from qir.graph import Node, Value
from qir.module import Module
from qir.ops import op_of
from qir.passes.analysis.constants import array_of
from qir.passes.analysis.quantized_layers import QuantizedLayer
from qir.passes.infrastructure.manager import PassManager
from qir.passes.simplify.fold.constants import FoldConstants
from qir.support.json_text import parse_json
from qir.tensor import Array
from qir.types import DType, TensorType, code_range

EXACT_OPTION = ("session.x64quantprecision", "1")
"""Session option with which ONNX Runtime computes layers between DequantizeLinear and QuantizeLinear exactly on such
CPUs: it stores their constant weights as uint8 when it loads the file."""

_FUSED = {"Conv": False, "Gemm": True, "MatMul": True}
"""Layers that ONNX Runtime fuses into a kernel on codes, and whether it does so without a quantizer on the result."""

_ON_CODES: dict[str, tuple[tuple[int, int] | None, tuple[tuple[int, int], ...]]] = {
    "QLinearConv": ((0, 2), ((3, 5),)),
    "QLinearMatMul": ((0, 2), ((3, 5),)),
    "QGemm": ((0, 2), ((3, 5),)),
    "ConvInteger": ((0, 2), ((1, 3),)),
    "MatMulInteger": ((0, 2), ((1, 3),)),
    "MatMulIntegerToFloat": ((0, 4), ((1, 5),)),
    "DynamicQuantizeMatMul": (None, ((1, 3),)),
    "DynamicQuantizeLSTM": (None, ((1, 9), (2, 11))),
    "QAttention": ((0, 6), ((1, 7),)),
}
"""(codes, zero point) of the data operand, None where the kernel makes uint8 codes itself, and of each weight operand:
ONNX's operators, and ONNX Runtime's documentation of its contrib operators."""


@dataclass(frozen=True, slots=True)
class _Stored:
    """Codes, their zero point, and whether ONNX Runtime reads the signed ones as unsigned, 128 larger."""

    codes: Value
    zero_point: Value | None
    turned: bool = False


@dataclass(frozen=True, slots=True)
class LayerExactness:
    """Whether a layer gives exact sums on every CPU.

    Attributes:
        layer: name of its node, of its first result where that has none.
        proven: no pair of products can leave int16, or the kernel does not add in pairs.
        remedied: where it is not proven, whether `EXACT_OPTION` makes it exact.
        reason: the codes that decide.
    """

    layer: str
    proven: bool
    remedied: bool
    reason: str


def planned(layer: QuantizedLayer, data: CodeRange, weight: CodeRange) -> bool:
    """Return whether a layer can saturate when its operands are stored with these codes.

    Args:
        layer: a layer between fake-quant nodes.
        data: stored codes of its data operand.
        weight: stored codes of its weight operand.
    """
    node, tensor = layer.node, layer.weight_tensor
    depthwise = tensor is not None and _depthwise(node, tensor.shape)
    return _runs_on_codes(node) and can_saturate(node.op, data, weight, depthwise=depthwise)


def exactness(module: Module) -> tuple[LayerExactness, ...]:
    """Return every layer on 8-bit codes of an exported network or of another tool's file, in order."""
    return tuple(_judged(_folded(module)))


def saturating_layers(module: Module) -> tuple[str, ...]:
    """Return names of the layers of a file that x86 CPUs without VNNI can compute wrongly."""
    return tuple(found.layer for found in exactness(module) if not found.proven)


def _folded(module: Module) -> Module:
    """Return the network with weights that the file itself unpacks as constants."""
    fixed = set[Value]()
    for node in module.graph:
        if node.operands and all(value.is_constant or value in fixed for value in node.operands):
            fixed.update(node.results)
    if any(weight.codes in fixed for node in module.graph for _, weight, _ in _operands(node)):
        module = module.clone()
        PassManager([FoldConstants()], reproducers=False).run(module)
    return module


def _judged(module: Module) -> Iterator[LayerExactness]:
    fused = _is_fused(module)
    for node in module.graph:
        for data, weight, on_codes in _operands(node) if fused or node.op not in _FUSED else ():
            first = CodeRange(DType.UINT8, 0, 255) if data is None else _range(data)
            second, constant = _range(weight), weight.codes.constant
            depthwise = constant is not None and _depthwise(node, constant.shape)
            wrong = can_saturate(node.op, first, second, depthwise=depthwise)
            remedied = wrong and constant is not None and not on_codes
            yield LayerExactness(node.label, not wrong, remedied, _reason(first, second, wrong, depthwise))


def _is_fused(module: Module) -> bool:
    """Return whether the file is made for a session that fuses layers between quantizers, as its metadata say."""
    try:
        session = parse_json(module.metadata.get("qir.session", "{}"))
        return bool(session.get("session.disable_quant_qdq") != "1")
    except (ValueError, AttributeError):  # written by another tool
        return True


def _reason(data: CodeRange, weight: CodeRange, wrong: bool, depthwise: bool) -> str:
    pair = f"{data.element.label} up to {data.high} by {weight.element.label} from {weight.low} to {weight.high}"
    if wrong:
        return f"{pair}: two products can leave int16"
    return f"{pair}: depthwise, not added in pairs" if depthwise else f"{pair}: every sum is exact"


def _operands(node: Node) -> list[tuple[_Stored | None, _Stored, bool]]:
    """Return (data, weight, whether the node itself reads codes) of a layer.

    The kernel makes codes of data that are None.
    """
    if node.op in _ON_CODES:
        data, weights = _ON_CODES[node.op]
        first = None if data is None else _stored(node, *data)
        return [(first, found, True) for place in weights if (found := _stored(node, *place)) is not None]
    operands = op_of(node).quantizable(node) if _runs_on_codes(node) else None
    if operands is None:
        return []
    data_codes, weight_codes = (_dequantized(node.input(index)) for index in (operands.data, operands.weight))
    return [] if data_codes is None or weight_codes is None else [(data_codes, weight_codes, False)]


def _stored(node: Node, codes: int, zero_point: int) -> _Stored | None:
    value = node.input(codes)
    return None if value is None else _Stored(value, node.input(zero_point))


def _runs_on_codes(node: Node) -> bool:
    """Return whether ONNX Runtime has a kernel on codes that adds in pairs for a layer between quantizers.

    A convolution without a quantizer on its result stays on floats, or becomes a ConvInteger, which is exact.
    """
    return node.op in _FUSED and (_FUSED[node.op] or _is_quantized(node.result))


def _is_quantized(value: Value) -> bool:
    """Return whether a value is put on a grid, seen through the activations in between."""
    for user in value.users:
        if user.is_return:
            continue
        if user.is_fake_quant or user.op == QUANTIZE:
            return True
        if op_of(user).fuses_into_producer(user) and _is_quantized(user.result):
            return True
    return False


def _depthwise(node: Node, shape: tuple[int, ...]) -> bool:
    return len(shape) > 2 and shape[1] == 1 and shape[0] == node.attribute("group", 1)


def _dequantized(value: Value | None) -> _Stored | None:
    """Return the codes that a value is dequantized from, seen through operators that keep its grid."""
    maker = _maker_of_grid(value)
    if maker is None or maker.attribute("block_size", 0):
        return None
    return _Stored(maker.operands[0], maker.input(2), turns_unsigned(maker) and not _quantizes_constant(maker))


def _quantizes_constant(dequantize: Node) -> bool:
    """Return whether the codes are those of a weight that the file itself quantizes.

    ONNX Runtime folds them as they are.
    """
    quantize = dequantize.operands[0].producer
    return quantize is not None and quantize.operands[0].is_constant


def _maker_of_grid(value: Value | None) -> Node | None:
    """Return the DequantizeLinear that gives a value its grid."""
    while value is not None and (maker := value.producer) is not None and maker.op != DEQUANTIZE:
        index = op_of(maker).grid_operand(maker)
        value = None if index is None else maker.input(index)
    return None if value is None else value.producer


def _range(stored: _Stored) -> CodeRange:
    """Return the element type, smallest and largest of the codes; what pads them is the zero point."""
    element = _element(stored)
    limits = code_range(element.bits, signed=element.label.startswith("int"))
    low, high = _limits(stored.codes, limits)
    zero = array_of(stored.zero_point)
    if zero is not None:
        low, high = min(low, int(zero.min(initial=low))), max(high, int(zero.max(initial=high)))
    low, high = max(low, limits[0]), min(high, limits[1])
    return CodeRange(DType.UINT8, low + 128, high + 128) if stored.turned else CodeRange(element, low, high)


def _element(stored: _Stored) -> DType:
    """Return the element type of codes: the value's, or that of the zero point where no type is known."""
    for value in (stored.codes, stored.zero_point):
        if value is not None and value.constant is not None:
            return value.constant.dtype
        if value is not None and isinstance(value.type, TensorType):
            return value.type.dtype
    return DType.UINT8


def _limits(codes: Value, limits: tuple[int, int]) -> tuple[int, int]:
    """Return what a constant holds, or the Clip that a value comes from lets through, seen through what moves codes."""
    if codes.constant is not None:
        array = codes.constant.numpy()
        return int(array.min(initial=0)), int(array.max(initial=0))
    maker = codes.producer
    if maker is None:
        return limits
    if maker.op == QUANTIZE:
        source = _same_grid(maker)
        return limits if source is None else _limits(source, limits)
    if maker.op == "Clip":
        bounds = [array_of(maker.input(index)) for index in (1, 2)]
        known = [None if b is None or b.dtype.kind not in "iu" else int(b.reshape(-1)[0]) for b in bounds]
        return limits[0] if known[0] is None else known[0], limits[1] if known[1] is None else known[1]
    index = op_of(maker).grid_operand(maker)
    source = None if index is None else maker.input(index)
    return limits if source is None else _limits(source, limits)


def _same_grid(quantize: Node) -> Value | None:
    """Return the codes that a QuantizeLinear gives back unchanged: those of a DequantizeLinear on the same grid."""
    maker = _maker_of_grid(quantize.operands[0])
    if maker is None or len(maker.inputs) != len(quantize.inputs):
        return None
    pairs = zip(maker.inputs[1:], quantize.inputs[1:], strict=True)
    return maker.input(0) if all(_equal(array_of(first), array_of(second)) for first, second in pairs) else None


def _equal(first: Array | None, second: Array | None) -> bool:
    return first is not None and second is not None and first.dtype == second.dtype and np.array_equal(first, second)
