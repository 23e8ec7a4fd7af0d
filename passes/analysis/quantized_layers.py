"""The quantized layers of a network: an expensive node with the quantizers of its operands and of its result.

Layers whose kernels compute in float, with weights that are stored as codes, are listed apart.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from qir.fake_quant import FakeQuant
from qir.granularity import PerBlock
from qir.graph import Graph, Node, Value
from qir.ops import op_of
from qir.quantizers import QuantParameters
from qir.tensor import Tensor
from qir.tracing import quantizer_of


@dataclass(frozen=True, slots=True)
class QuantizedLayer:
    """An expensive node and what quantizes it.

    Attributes:
        node: Conv, Gemm, MatMul, ….
        data: quantizer of the data operand.
        weight: quantizer of the weight operand.
        output: quantizer of the result, seen through the activation that fuses, or None.
        bias: the bias value, or None.
        bias_index: index of the bias operand, None when the op has none.
        name: its weight quantizer's name without `.weight`; layers with one weight end with `.2`, `.3`, ….
    """

    node: Node
    data: FakeQuant
    weight: FakeQuant
    output: FakeQuant | None
    bias: Value | None
    bias_index: int | None
    name: str

    @property
    def weight_tensor(self) -> Tensor | None:
        """The float weight, or None when the second operand is computed."""
        value = self.weight.source
        return value.constant if value.is_constant else None


@dataclass(frozen=True, slots=True)
class StoredWeight:
    """A weight that is stored as codes for a kernel that computes in float.

    Attributes:
        node: LSTM, Gather, …, or a layer whose weight has blocks of scales.
        index: operand that the weight is.
        quantizer: the weight's quantizer.
        reason: why no integer kernel computes it.
    """

    node: Node
    index: int
    quantizer: FakeQuant
    reason: str


def sums_products(node: Node) -> bool:
    """Return whether a layer computes sums of products and nothing else.

    Gemm's factors are 1, its data is not transposed.
    """
    if node.op == "Gemm":
        return node.attribute("alpha", 1.0) == node.attribute("beta", 1.0) == 1.0 and not node.attribute("transA", 0)
    return node.op in {"Conv", "ConvTranspose", "MatMul"}


def stored_weights(graph: Graph) -> Iterator[StoredWeight]:
    """Return quantized constant weights of recurrent layers, embeddings and layers with blocks of scales, in order."""
    for node in graph:
        operands, kernel = op_of(node).quantizable(node), op_of(node).float_kernel(node)
        if operands is not None:
            found = quantizer_of(node.input(operands.weight))
            if found is not None and isinstance(found.granularity, PerBlock):
                reason = "blocks of scales: codes are read back as floats and multiplied in float"
                yield StoredWeight(node, operands.weight, found, reason)
        for index in () if kernel is None else kernel.weights:
            found = quantizer_of(node.input(index))
            if found is not None and found.is_weight:
                yield StoredWeight(node, index, found, f"{node.op}: computed in float with weights stored as codes")


def quantized_layers(graph: Graph) -> Iterator[QuantizedLayer]:
    """Yield every expensive node whose data and weight operand lie on grids, in order; none with blocks of scales."""
    readers = dict[FakeQuant, int]()
    for node in graph:
        operands = op_of(node).quantizable(node)
        if operands is None:
            continue
        data, weight = quantizer_of(node.input(operands.data)), quantizer_of(node.input(operands.weight))
        if data is None or weight is None or isinstance(weight.granularity, PerBlock):
            continue
        bias = None if operands.bias is None else node.input(operands.bias)
        count = readers[weight] = readers.get(weight, 0) + 1
        name = weight.name.removesuffix(".weight") + (f".{count}" if count > 1 else "")
        yield QuantizedLayer(node, data, weight, output_quantizer(node), bias, operands.bias, name)


def output_quantizer(node: Node) -> FakeQuant | None:
    """Return the quantizer on a node's result, seen through activations that fuse into it."""
    value = node.result
    while len(value.users) == 1:
        user = value.users[0]
        if user.is_fake_quant:
            return FakeQuant(user)
        if user.is_return or not op_of(user).fuses_into_producer(user):
            return None
        value = user.result
    return None


def clipped_by_codes(node: Node, grid: QuantParameters) -> Value:
    """Return what a quantizer on one scale can read instead of its operand.

    Clips that its codes make superfluous are passed.

    Quantization is monotone: where the bounds of a Clip fall on or beyond the outermost codes, clipping the codes alone
    gives the same codes. ONNX Runtime's fused kernels see through a Clip only where the container saturates, so a Clip
    in front of fewer than 8 bits would keep the layer in float.
    """
    value = node.operands[0]
    while grid.scale.size == 1 and (clip := value.producer) is not None and len(value.users) == 1:
        if not op_of(clip).is_activation or clip.op == "Relu" or value.is_output:
            break
        scale, zero = np.float32(grid.scale[0]), int(grid.zero_point[0])
        low, high = (np.rint(np.float32(bound) / scale) + zero for bound in activation_bounds(clip))
        if low > grid.low_code or high < grid.high_code:
            break
        value = clip.operands[0]
    return value


def activation_bounds(node: Node) -> tuple[float, float]:
    """Return the smallest and largest value that an activation (Relu, Clip) lets through."""
    if node.op == "Relu":
        return 0.0, np.inf
    limits = []
    for index, name, default in ((1, "min", -np.inf), (2, "max", np.inf)):
        operand = node.input(index)
        constant = None if operand is None else operand.constant
        limits.append(float(node.attribute(name, default) if constant is None else constant.numpy().reshape(-1)[0]))
    return limits[0], limits[1]
