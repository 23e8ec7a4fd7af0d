"""The linear layers: Conv, ConvTranspose, Gemm, and MatMul with the Add that is its bias."""

from __future__ import annotations

import numpy as np

from qir.graph import Node, Value
from qir.ops.definition import rank_of
from qir.passes.analysis.affine import Affine, Reject, Vector, channel_vector
from qir.passes.analysis.constants import array_of, constant_of, frozen, is_standard, set_constant
from qir.passes.analysis.linear_layer import Edit, LinearLayer, magnitudes
from qir.tensor import Array


class ConvLayer(LinearLayer):
    """Conv of any rank: weight [out, in / groups, kernel…]."""

    @property
    def groups(self) -> int:
        """Number of groups."""
        return int(self.node.attribute("group", 1))

    @property
    def out_channels(self) -> int:
        """Output channels."""
        return int(self.weight.shape[0])

    @property
    def in_channels(self) -> int:
        """Input channels."""
        return int(self.weight.shape[1]) * self.groups

    @property
    def rank(self) -> int | None:
        """Batch, channel and spatial dimensions."""
        return self.weight.ndim

    @property
    def axis(self) -> int:
        """Channels follow the batch."""
        return 1 - self.weight.ndim

    @property
    def _spatial(self) -> tuple[int, ...]:
        return (1,) * (self.weight.ndim - 2)

    def per_output(self, vector: Array) -> Array:
        """[out, 1, 1…]."""
        return vector.reshape(-1, 1, *self._spatial)

    def per_input(self, vector: Array) -> Array:
        """[out, in / groups, 1…]: the rows of one group repeat."""
        rows = np.repeat(vector.reshape(self.groups, -1), self.out_channels // self.groups, axis=0)
        return rows.reshape(*rows.shape, *self._spatial)

    def output_magnitudes(self) -> Vector:
        """Over input channels and kernel."""
        return magnitudes(self.weight.reshape(1, self.out_channels, -1))

    def input_magnitudes(self) -> Vector:
        """Over the output channels of the group and the kernel."""
        grouped = self.weight.reshape(self.groups, self.out_channels // self.groups, self.weight.shape[1], -1)
        return magnitudes(grouped.transpose(0, 2, 1, 3).reshape(1, self.in_channels, -1))

    def sums(self, vector: Vector) -> Vector:
        """Return the sum of weight * vector over input channels and kernel."""
        taps = self.weight.reshape(*self.weight.shape[:2], -1).sum(axis=2, dtype=np.float64)
        found: Vector = (taps * self.per_input(vector).reshape(taps.shape)).sum(axis=1)
        return found

    def pads_zeros(self) -> bool:
        """Unless there is provably no padding."""
        mode = self.node.attribute("auto_pad", "NOTSET")
        return mode not in {"NOTSET", "VALID"} or any(self.node.attribute("pads", ()))

    def write_bias(self, bias: Array) -> None:
        """Bias is operand 2."""
        if bias.any() or self.node.input(2) is not None:
            set_constant(self.node, 2, bias.astype(self.weight.dtype), self.bias_name())


class ConvTransposeLayer(ConvLayer):
    """ConvTranspose of any rank: weight [in, out / groups, kernel…], output channel = group * out / groups + index."""

    @property
    def out_channels(self) -> int:
        """Output channels."""
        return int(self.weight.shape[1]) * self.groups

    @property
    def in_channels(self) -> int:
        """Input channels."""
        return int(self.weight.shape[0])

    def per_output(self, vector: Array) -> Array:
        """[in, out / groups, 1…]: the rows of one group repeat."""
        rows = np.repeat(vector.reshape(self.groups, -1), self.in_channels // self.groups, axis=0)
        return rows.reshape(*rows.shape, *self._spatial)

    def per_input(self, vector: Array) -> Array:
        """[in, 1, 1…]."""
        return vector.reshape(-1, 1, *self._spatial)

    def output_magnitudes(self) -> Vector:
        """Over the input channels of the group and the kernel."""
        grouped = self.weight.reshape(self.groups, self.in_channels // self.groups, self.weight.shape[1], -1)
        return magnitudes(grouped.transpose(0, 2, 1, 3).reshape(1, self.out_channels, -1))

    def input_magnitudes(self) -> Vector:
        """Over output channels and kernel."""
        return magnitudes(self.weight.reshape(1, self.in_channels, -1))

    def sums(self, vector: Vector) -> Vector:
        """Return the sum of weight * vector over input channels and kernel.

        Holds away from the borders, which see fewer taps.
        """
        taps = self.weight.reshape(*self.weight.shape[:2], -1).sum(axis=2, dtype=np.float64)
        found: Vector = (taps * vector[:, None]).reshape(self.groups, -1, taps.shape[1]).sum(axis=1).reshape(-1)
        return found

    def pads_zeros(self) -> bool:
        """Return True: every transposed convolution sees fewer taps at its borders."""
        return True


class GemmLayer(LinearLayer):
    """Gemm: alpha * A' B' + beta * C, weight B [in, out], or [out, in] with transB."""

    @property
    def _transposed(self) -> bool:
        return bool(self.node.attribute("transB", 0))

    @property
    def out_channels(self) -> int:
        """Columns of B'."""
        return int(self.weight.shape[0 if self._transposed else 1])

    @property
    def in_channels(self) -> int:
        """Rows of B'."""
        return int(self.weight.shape[1 if self._transposed else 0])

    @property
    def rank(self) -> int | None:
        """A matrix."""
        return 2

    def per_output(self, vector: Array) -> Array:
        """Along the columns of B'."""
        return vector.reshape(-1, 1) if self._transposed else vector.reshape(1, -1)

    def per_input(self, vector: Array) -> Array:
        """Along the rows of B'."""
        return vector.reshape(1, -1) if self._transposed else vector.reshape(-1, 1)

    def output_magnitudes(self) -> Vector:
        """Over the rows of B'."""
        return magnitudes((self.weight if self._transposed else self.weight.T)[None])

    def input_magnitudes(self) -> Vector:
        """Over the columns of B'."""
        return magnitudes((self.weight.T if self._transposed else self.weight)[None])

    def sums(self, vector: Vector) -> Vector:
        """Alpha * vector B'."""
        matrix = self.weight.T if self._transposed else self.weight
        found: Vector = self.node.attribute("alpha", 1.0) * (vector @ matrix.astype(np.float64))
        return found

    def before(self, affine: Affine) -> Edit | Reject:
        """Needs the channels on the last axis of A."""
        if self.node.attribute("transA", 0):
            return Reject(f"{self.name!r} transposes its data")
        return super().before(affine)

    def write_bias(self, bias: Array) -> None:
        """Take operand 2 for the bias, beta already in it."""
        if bias.any() or self.node.input(2) is not None:
            set_constant(self.node, 2, bias.astype(self.weight.dtype), self.bias_name())
            self.node.set_attribute("beta", None)


class MatMulLayer(LinearLayer):
    """MatMul by a constant matrix [in, out], with the Add of a constant that follows it as its bias."""

    def __init__(self, node: Node, weight: Array, bias: Array, add: Node | None) -> None:
        super().__init__(node, weight, bias)
        self.add = add

    @property
    def result(self) -> Value:
        """The Add's result when there is one."""
        return self.node.result if self.add is None else self.add.result

    @property
    def out_channels(self) -> int:
        """Columns."""
        return int(self.weight.shape[1])

    @property
    def in_channels(self) -> int:
        """Rows."""
        return int(self.weight.shape[0])

    @property
    def rank(self) -> int | None:
        """That of the result, or of the data."""
        found = rank_of(self.result)
        return rank_of(self.node.input(0)) if found is None else found

    def per_output(self, vector: Array) -> Array:
        """[1, out]."""
        return vector.reshape(1, -1)

    def per_input(self, vector: Array) -> Array:
        """[in, 1]."""
        return vector.reshape(-1, 1)

    def output_magnitudes(self) -> Vector:
        """Over the rows."""
        return magnitudes(self.weight.T[None])

    def input_magnitudes(self) -> Vector:
        """Over the columns."""
        return magnitudes(self.weight[None])

    def sums(self, vector: Vector) -> Vector:
        """Return vector W."""
        found: Vector = vector @ self.weight.astype(np.float64)
        return found

    def write_bias(self, bias: Array) -> None:
        """Put the bias into the Add; make one when it is needed."""
        values = bias.astype(self.weight.dtype)
        if self.add is not None:
            index = 0 if constant_of(self.add.input(0)) is not None else 1
            set_constant(self.add, index, values, self.bias_name())
        elif values.any():
            self._insert_add(values)

    def _insert_add(self, values: Array) -> None:
        graph, result = self.node.scope, self.node.result
        constant = graph.add_constant(self.bias_name(), frozen(values))
        add = Node("Add", (), name=f"{self.node.name}.bias" if self.node.name else "")
        add.result.type = result.type
        result.replace_all_uses_with(add.result)
        add.set_inputs((result, constant))
        graph.insert(add, after=self.node)
        self.add = add


def layer_at(node: Node) -> LinearLayer | Reject:
    """Return the linear layer that a node is: Conv, ConvTranspose, Gemm or MatMul with constant weight and bias."""
    if not is_standard(node, "Conv", "ConvTranspose", "Gemm", "MatMul"):
        return Reject(f"{node.op} is not a linear layer")
    name = node.name or node.result.name
    if any(attribute.reference for attribute in node.attributes.values()):
        return Reject(f"attributes of {name!r} are the function's parameters")
    weight = array_of(node.input(1))
    if weight is None:
        return Reject(f"the weight of {name!r} is not constant")
    if weight.dtype.name not in {"float16", "float32", "float64", "bfloat16"}:
        return Reject(f"the weight of {name!r} is {weight.dtype}")
    if is_standard(node, "MatMul"):
        return _matmul(node, weight) if weight.ndim == 2 else Reject(f"the weight of {name!r} is not a matrix")
    bias = array_of(node.input(2))
    if bias is None and node.input(2) is not None:
        return Reject(f"the bias of {name!r} is not constant")
    if is_standard(node, "Gemm"):
        return _gemm(node, weight, bias)
    layer = ConvLayer if is_standard(node, "Conv") else ConvTransposeLayer
    made = layer(node, weight, np.zeros(0))
    made.bias = np.zeros(made.out_channels) if bias is None else bias.astype(np.float64)
    return made


def _gemm(node: Node, weight: Array, bias: Array | None) -> LinearLayer:
    layer = GemmLayer(node, weight, np.zeros(0))
    values = np.zeros(()) if bias is None else bias.astype(np.float64) * node.attribute("beta", 1.0)
    layer.bias = values if values.ndim == 2 else np.broadcast_to(values, (layer.out_channels,))
    return layer


def _matmul(node: Node, weight: Array) -> LinearLayer:
    uses = node.result.uses
    zeros = np.zeros(weight.shape[1])
    add = uses[0].node if len(uses) == 1 and is_standard(uses[0].node, "Add") else None
    if add is not None and add.graph is node.graph:
        constant = array_of(add.input(1 - uses[0].index))
        rank = rank_of(node.result) or 1
        vector = None if constant is None or constant.ndim > rank else channel_vector(constant, -1, weight.shape[1])
        if vector is not None:
            return MatMulLayer(node, weight, vector, add)
    return MatMulLayer(node, weight, zeros, None)


def layer_producing(value: Value) -> LinearLayer | Reject:
    """Return the layer whose result (bias included) a value is."""
    node = value.producer
    if node is None:
        return Reject(f"{value.name!r} is not a result of a layer")
    if is_standard(node, "Add"):
        for operand in node.operands:
            if operand.producer is not None and is_standard(operand.producer, "MatMul"):
                node = operand.producer
    layer = layer_at(node)
    if isinstance(layer, LinearLayer) and layer.result is not value:
        return Reject(f"{value.name!r} is not the layer's last result")
    return layer
