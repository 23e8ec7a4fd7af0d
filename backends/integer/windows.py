"""Sliding windows of convolution and pooling for any number of spatial dimensions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import product
from typing import Any

import numpy as np

from qir.graph import Node
from qir.tensor import Array


@dataclass(frozen=True)
class Window:
    """Geometry of a convolution or pooling node.

    Attributes:
        kernel, strides, dilations: one entry per spatial dimension.
        begin, end: padding before and after, one entry per spatial dimension.
        beyond: what the last windows of ceil_mode reach past the padding, one entry per spatial dimension or none.
    """

    kernel: tuple[int, ...]
    strides: tuple[int, ...]
    dilations: tuple[int, ...]
    begin: tuple[int, ...]
    end: tuple[int, ...]
    beyond: tuple[int, ...] = ()

    @staticmethod
    def of(node: Node, spatial: Sequence[int], kernel: Sequence[int]) -> Window:
        """Return the geometry of a node with the attributes of ONNX's Conv and pooling operators.

        Args:
            node: the node.
            spatial: spatial dimensions of its input.
            kernel: spatial dimensions of its kernel.
        """
        strides, dilations, begin, end = _attributes(node, len(spatial))
        auto = node.attribute("auto_pad", "NOTSET")
        if auto in ("SAME_UPPER", "SAME_LOWER"):
            extents = [d * (k - 1) + 1 for d, k in zip(dilations, kernel, strict=True)]
            total = [
                max((-(-size // s) - 1) * s + extent - size, 0)
                for size, s, extent in zip(spatial, strides, extents, strict=True)
            ]
            small, large = tuple(t // 2 for t in total), tuple(t - t // 2 for t in total)
            begin, end = (small, large) if auto == "SAME_UPPER" else (large, small)
        window = Window(tuple(kernel), strides, dilations, begin, end)
        return window._ceiled(spatial) if node.attribute("ceil_mode", 0) else window

    @property
    def moves(self) -> bool:
        """Whether results are made of other places than their own: not so for kernels of one element, step by step."""
        return any(size > 1 for size in (*self.kernel, *self.strides)) or any((*self.begin, *self.end, *self.beyond))

    def _ceiled(self, spatial: Sequence[int]) -> Window:
        """Room past the end, so that the last partial window is taken when it starts inside the image."""
        beyond = []
        for axis, size in enumerate(spatial):
            padded = size + self.begin[axis] + self.end[axis]
            extent, stride = self._extent(axis), self.strides[axis]
            count = -(-(padded - extent) // stride) + 1
            if (count - 1) * stride >= size + self.begin[axis]:
                count -= 1
            beyond.append(max((count - 1) * stride + extent - padded, 0))
        return replace(self, beyond=tuple(beyond))

    def _extent(self, axis: int) -> int:
        return self.dilations[axis] * (self.kernel[axis] - 1) + 1

    def padded(self, array: Array, value: Any, beyond: Any = None) -> Array:
        """[N, C, spatial...] with the padding filled with `value`, the room past it with `beyond` or the same."""
        array = _pad(array, self.begin, self.end, value)
        return _pad(array, (0,) * len(self.beyond), self.beyond, value if beyond is None else beyond)

    def elements(self, padded: Array) -> list[Array]:
        """Return one strided view [N, C, out...] per kernel element, in C order of the kernel."""
        counts = [
            (padded.shape[2 + axis] - self._extent(axis)) // stride + 1 for axis, stride in enumerate(self.strides)
        ]
        views = []
        for offsets in product(*map(range, self.kernel)):
            places = [
                slice(offset * dilation, offset * dilation + (count - 1) * stride + 1, stride)
                for offset, dilation, count, stride in zip(offsets, self.dilations, counts, self.strides, strict=True)
            ]
            views.append(padded[(slice(None), slice(None), *places)])
        return views


def transposed_window(node: Node, spatial: Sequence[int], kernel: Sequence[int]) -> tuple[Window, list[int]]:
    """Return the geometry of a ConvTranspose, and the spatial size of its result before `begin` and `end` are cut off.

    Sizes and pads follow ONNX ConvTranspose: `output_shape` and `auto_pad` determine the pads, the odd element of
    SAME_UPPER and SAME_LOWER lies at the end and the beginning.

    Args:
        node: the node.
        spatial: spatial dimensions of its input.
        kernel: spatial dimensions of its kernel.
    """
    rank = len(spatial)
    strides, dilations, begin, end = _attributes(node, rank)
    extra = tuple(node.attribute("output_padding") or (0,) * rank)
    reach = [d * (k - 1) + 1 for d, k in zip(dilations, kernel, strict=True)]
    full = [(n - 1) * s + r + e for n, s, r, e in zip(spatial, strides, reach, extra, strict=True)]
    auto, wanted = node.attribute("auto_pad", "NOTSET"), node.attribute("output_shape")
    if wanted is None and auto.startswith("SAME"):
        wanted = [n * s for n, s in zip(spatial, strides, strict=True)]
    if wanted:
        total = [max(size - target, 0) for size, target in zip(full, tuple(wanted)[-rank:], strict=True)]
        small, large = tuple(t // 2 for t in total), tuple(t - t // 2 for t in total)
        begin, end = (small, large) if auto == "SAME_UPPER" else (large, small)
    return Window(tuple(kernel), strides, dilations, begin, end), full


def _pad(array: Array, begin: Sequence[int], end: Sequence[int], value: Any) -> Array:
    if not any((*begin, *end)):
        return array
    return np.pad(array, [(0, 0), (0, 0), *zip(begin, end, strict=True)], constant_values=value)


def _attributes(node: Node, rank: int) -> tuple[tuple[int, ...], ...]:
    """Strides, dilations, padding before and after, each with one entry per spatial dimension."""
    pads = tuple(node.attribute("pads") or (0,) * (2 * rank))
    ones = (1,) * rank
    strides, dilations = tuple(node.attribute("strides") or ones), tuple(node.attribute("dilations") or ones)
    return strides, dilations, pads[:rank], pads[rank:]
