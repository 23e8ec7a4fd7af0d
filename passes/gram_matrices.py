"""Second moments of what layers read: with them the error of a quantized weight is measured at the layer's output.

With H the mean of x xᵀ over the rows x that a layer multiplies its weight by (im2col patches of a convolution), the
mean squared output error of a change dW of one output channel is dW H dWᵀ.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from qir.graph import Node
from qir.ops import op_of
from qir.ops.matrix import same_pads
from qir.passes.constants import is_standard
from qir.tensor import Array

LARGEST_ROW = 2048
"""Layers whose rows are longer are left out: H would take more than 16 MiB in float32."""

SAMPLES = 256
"""Samples that matrices are gathered from; more change them little."""

ROWS = 4096
"""Rows that are drawn from all samples: on ResNet-20 the ranges found with them have 0.1 % more error than with all."""

RANK = 32
"""Eigenvectors of H that `OutputError` keeps: the ranges found with them have 0.5 % more error than with all."""


class GramMatrix:
    """The mean of x xᵀ over a stream of batches of a layer's data; memory does not grow with the number of batches.

    Args:
        node: Conv with two spatial axes, Gemm or MatMul with a constant weight.
        rows: how many rows are drawn from `SAMPLES` samples; of smaller data every row counts.

    Attributes:
        node: the layer.
        samples: number of samples seen.
    """

    def __init__(self, node: Node, rows: int = ROWS) -> None:
        self.node = node
        self.samples = 0
        self._places = max(rows // SAMPLES, 1)
        self._generator = np.random.default_rng(0)
        self._count = 0
        self._products: Array | None = None
        self._sums: Array | None = None

    def update(self, data: Array) -> None:
        """Add a batch of data, float32 [samples, …]; samples beyond the first `SAMPLES` are passed over."""
        part = np.asarray(data[: max(SAMPLES - self.samples, 0)], np.float32)
        if not part.size:
            return
        rows = _patches(self.node, part, self) if is_standard(self.node, "Conv") else self._drawn(part)
        products, sums = np.swapaxes(rows, 1, 2) @ rows, rows.sum(axis=1)
        self.samples += len(part)
        self._count += rows.shape[1]
        self._products = products if self._products is None else self._products + products
        self._sums = sums if self._sums is None else self._sums + sums

    def places(self, samples: int, available: int) -> Array:
        """Which of the `available` rows of each sample are taken: int64 [samples, taken]."""
        if available <= self._places:
            return np.broadcast_to(np.arange(available), (samples, available))
        return self._generator.integers(0, available, (samples, self._places))

    def matrix(self, *, centred: bool = False) -> Array | None:
        """H: float32 [groups, inputs, inputs]; None when nothing was seen.

        Args:
            centred: the covariance instead: a constant shift of the output costs nothing, because a later correction of
                biases takes it away.
        """
        if self._products is None or self._sums is None:
            return None
        found: Array = self._products / np.float32(self._count)
        if centred:
            mean = self._sums / np.float32(self._count)
            found -= mean[:, :, None] * mean[:, None, :]
        return found

    def _drawn(self, data: Array) -> Array:
        """Rows of a layer that multiplies the last axis: [1, number of rows, inputs]."""
        per_sample = data.reshape(len(data), -1, data.shape[-1])
        chosen = self.places(len(data), per_sample.shape[1])
        return per_sample[np.arange(len(data))[:, None], chosen].reshape(1, -1, data.shape[-1])


@dataclass(frozen=True)
class OutputError:
    """dW H dWᵀ with H held as its leading eigenvectors and the diagonal of what they leave.

    Attributes:
        factor: float32 [groups, inputs, rank].
        rest: float32 [groups, inputs, 1].
    """

    factor: Array
    rest: Array

    @staticmethod
    def of(gram: Array) -> OutputError:
        """Of H [groups, inputs, inputs]: exact up to `RANK` inputs, else by one step of randomized iteration.

        Halko, Martinsson and Tropp, 2011, algorithms 4.3 and 5.5 (the Nyström form, whose rest is never negative).
        """
        if gram.shape[1] <= RANK:
            values, vectors = np.linalg.eigh(gram)
            factor = vectors * np.sqrt(np.maximum(values, 0))[:, None, :]
        else:
            start = np.random.default_rng(0).normal(size=(gram.shape[0], gram.shape[1], RANK)).astype(np.float32)
            basis = np.linalg.qr(gram @ start)[0]
            image = gram @ basis
            values, vectors = np.linalg.eigh(np.swapaxes(basis, 1, 2) @ image)
            values = np.maximum(values, np.maximum(values[:, -1:], np.float32(1e-30)) * np.float32(1e-6))
            factor = image @ (vectors / np.sqrt(values)[:, None, :])
        rest = np.maximum(np.einsum("gii->gi", gram) - np.einsum("gir,gir->gi", factor, factor), 0)
        return OutputError(np.asarray(factor, np.float32), np.asarray(rest[:, :, None], np.float32))

    def __call__(self, change: Array) -> Array:
        """Error of each output channel: [candidates, channels] of changes [candidates, channels, inputs]."""
        candidates, channels, inputs = change.shape
        rows = change.reshape(candidates, len(self.factor), -1, inputs)
        seen = rows @ self.factor
        found = np.einsum("cgkr,cgkr->cgk", seen, seen) + (np.square(rows) @ self.rest)[..., 0]
        return np.asarray(found.reshape(candidates, channels))


def has_gram_matrix(node: Node, weight: Array) -> bool:
    """Whether a layer is of a kind that rows are known of, and its rows are short enough."""
    axis = operand_axis(node)
    if axis is None:
        return False
    rows = weight.size // weight.shape[axis]
    if is_standard(node, "Conv"):
        return weight.ndim == 4 and rows <= LARGEST_ROW
    straight = is_standard(node, "MatMul") or (is_standard(node, "Gemm") and not node.attribute("transA", 0))
    return straight and weight.ndim == 2 and rows <= LARGEST_ROW


def operand_axis(node: Node) -> int | None:
    """The axis of output channels of a layer's weight; None when the node is no layer."""
    operands = op_of(node).quantizable(node)
    return None if operands is None or operands.weight != 1 else operands.weight_axis


def _patches(node: Node, data: Array, gram: GramMatrix) -> Array:
    """What a convolution multiplies its weight by, at the places that are drawn: [groups, number of rows, inputs]."""
    weight = node.operands[1]
    while weight.constant is None:
        assert weight.producer is not None  # noqa: S101 - layers here have constant weights
        weight = weight.producer.operands[0]
    kernel = weight.constant.shape[2:]
    top, left, bottom, right = same_pads(node, tuple(data.shape[2:]), kernel)
    padded = np.pad(data, ((0, 0), (0, 0), (top, bottom), (left, right)))
    dilations, strides = node.attribute("dilations", (1, 1)), node.attribute("strides", (1, 1))
    reach = [step * (size - 1) + 1 for step, size in zip(dilations, kernel, strict=True)]
    windows = np.lib.stride_tricks.sliding_window_view(padded, reach, axis=(2, 3))
    windows = windows[:, :, :: strides[0], :: strides[1], :: dilations[0], :: dilations[1]]
    samples, channels, height, width = windows.shape[:4]
    rows, columns = np.divmod(gram.places(samples, height * width), width)
    taken = windows.transpose(0, 2, 3, 1, 4, 5)[np.arange(samples)[:, None], rows, columns]
    groups = node.attribute("group", 1)
    parted = taken.reshape(taken.shape[0] * taken.shape[1], groups, channels // groups * kernel[0] * kernel[1])
    return np.ascontiguousarray(parted.transpose(1, 0, 2))
