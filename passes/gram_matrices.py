"""Second moments of what layers read: with them the error of a quantized weight is measured at the layer's output.

With H the mean of x xᵀ over the rows x that a layer multiplies its weight by (im2col patches of a convolution), the
mean squared output error of a change dW of one output channel is dW H dWᵀ.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from qir.graph import Node
from qir.ops import op_of
from qir.ops.matrix import same_pads
from qir.tensor import Array

if TYPE_CHECKING:
    import torch

LARGEST_ROW = 2048
"""Layers whose rows are longer are left out: H would take more than 16 MiB in float32."""

SAMPLES = 256
"""Samples that matrices are gathered from; more change them little."""


class GramMatrix:
    """The mean of x xᵀ over a stream of batches of a layer's data; memory does not grow with the number of batches.

    Attributes:
        node: Conv with two spatial axes, Gemm or MatMul with a constant weight.
        samples: number of samples seen.
    """

    def __init__(self, node: Node) -> None:
        self.node = node
        self.samples = 0
        self._count = 0
        self._products: torch.Tensor | None = None
        self._sums: torch.Tensor | None = None

    def update(self, data: Array) -> None:
        """Add a batch of data, float32 [samples, …]; samples beyond the first `SAMPLES` are passed over."""
        import torch

        part = np.ascontiguousarray(data[: max(SAMPLES - self.samples, 0)], np.float32)
        if not part.size:
            return
        rows = _rows(self.node, torch.from_numpy(part))
        products, sums = rows @ rows.transpose(1, 2), rows.sum(dim=2)
        self.samples += len(part)
        self._count += rows.shape[2]
        self._products = products if self._products is None else self._products + products
        self._sums = sums if self._sums is None else self._sums + sums

    def matrix(self, *, centred: bool = False) -> Array | None:
        """H: float32 [groups, inputs, inputs]; None when nothing was seen.

        Args:
            centred: the covariance instead: a constant shift of the output costs nothing, because a later correction of
                biases takes it away.
        """
        if self._products is None or self._sums is None:
            return None
        found = self._products / self._count
        if centred:
            mean = self._sums / self._count
            found = found - mean[:, :, None] * mean[:, None, :]
        array: Array = found.numpy()
        return array


def has_gram_matrix(node: Node, weight: Array) -> bool:
    """Whether a layer is of a kind that rows are known of, and its rows are short enough."""
    axis = operand_axis(node)
    if axis is None or node.domain not in {"", "ai.onnx"}:
        return False
    rows = weight.size // weight.shape[axis]
    if node.op == "Conv":
        return weight.ndim == 4 and rows <= LARGEST_ROW
    straight = node.op == "MatMul" or (node.op == "Gemm" and not node.attribute("transA", 0))
    return straight and weight.ndim == 2 and rows <= LARGEST_ROW


def operand_axis(node: Node) -> int | None:
    """The axis of output channels of a layer's weight; None when the node is no layer."""
    operands = op_of(node).quantizable(node)
    return None if operands is None or operands.weight != 1 else operands.weight_axis


def _rows(node: Node, data: torch.Tensor) -> torch.Tensor:
    """What the layer multiplies its weight by: [groups, inputs, number of rows]."""
    import torch.nn.functional as F  # noqa: N812 - the name that PyTorch's own documentation uses

    if node.op != "Conv":
        return data.reshape(-1, data.shape[-1]).T[None]
    weight = node.operands[1]
    while weight.constant is None:
        assert weight.producer is not None  # noqa: S101 - layers here have constant weights
        weight = weight.producer.operands[0]
    kernel = weight.constant.shape[2:]
    top, left, bottom, right = same_pads(node, tuple(data.shape[2:]), kernel)
    padded = F.pad(data, [left, right, top, bottom])
    patches = F.unfold(padded, kernel, node.attribute("dilations", (1, 1)), 0, node.attribute("strides", (1, 1)))
    groups = node.attribute("group", 1)
    samples, length, places = patches.shape
    parted = patches.reshape(samples, groups, length // groups, places)
    return parted.permute(1, 2, 0, 3).reshape(groups, length // groups, samples * places)
