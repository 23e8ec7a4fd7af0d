"""Lowerings of pooling."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812 - the name that PyTorch's own documentation uses

from qir.backends.torch.ops.base import Operands, Result, lowers, tensor
from qir.backends.torch.ops.matrix import pad_flat
from qir.graph import Node
from qir.ops.families.matrix import same_pads


def _window(
    node: Node, data: torch.Tensor
) -> tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...], tuple[int, ...]]:
    """Kernel, strides, dilations and padding; with `ceil_mode` the padding at the ends completes the last window.

    A window that would begin in the padding at the end is left out, as ONNX has it.
    """
    kernel = tuple(node.attribute("kernel_shape"))
    ones = (1,) * len(kernel)
    strides, dilations = node.attribute("strides", ones), node.attribute("dilations", ones)
    pads = list(same_pads(node, tuple(data.shape[2:]), kernel))
    if node.attribute("ceil_mode", 0):
        for axis, size in enumerate(data.shape[2:]):
            reach = dilations[axis] * (kernel[axis] - 1) + 1
            room = size + pads[axis] + pads[axis + len(kernel)] - reach
            steps = -(-room // strides[axis])
            if steps * strides[axis] >= size + pads[axis]:
                steps -= 1
            pads[axis + len(kernel)] += max(steps * strides[axis] - room, 0)
    return kernel, strides, dilations, tuple(pads)


@lowers("MaxPool")
def _max_pool(node: Node, operands: Operands) -> Result:
    data = tensor(operands)
    kernel, strides, dilations, pads = _window(node, data)
    spatial = len(kernel)
    function: Any = (F.max_pool1d, F.max_pool2d, F.max_pool3d)[spatial - 1]
    even = pads[:spatial] == pads[spatial:] and all(2 * p <= k for p, k in zip(pads, kernel, strict=False))
    if len(node.results) == 1:
        if even:
            made: torch.Tensor = function(data, kernel, strides, pads[:spatial], dilations)
            return made
        low = float("-inf") if data.is_floating_point() else torch.iinfo(data.dtype).min
        pooled: torch.Tensor = function(F.pad(data, pad_flat(pads), value=low), kernel, strides, 0, dilations)
        return pooled
    values, places = function(
        F.pad(data, pad_flat(pads), value=float("-inf")), kernel, strides, 0, dilations, False, True
    )
    return values, _flat_indices(places, data.shape, pads, columns=bool(node.attribute("storage_order", 0)))


def _flat_indices(places: torch.Tensor, shape: Sequence[int], pads: tuple[int, ...], *, columns: bool) -> torch.Tensor:
    """Places in the padded image → places in the whole unpadded tensor, by rows or by columns (ONNX MaxPool)."""
    spatial = len(shape) - 2
    padded = [shape[2 + i] + pads[i] + pads[i + spatial] for i in range(spatial)]
    at, rest = [places] * spatial, places
    for axis in reversed(range(spatial)):
        at[axis], rest = rest % padded[axis] - pads[axis], rest // padded[axis]
    flat, factor = torch.zeros_like(places), 1
    for axis in range(spatial) if columns else reversed(range(spatial)):
        flat = flat + at[axis] * factor
        factor *= shape[2 + axis]
    images = torch.arange(shape[0] * shape[1], device=places.device).reshape(shape[0], shape[1], *(1,) * spatial)
    return flat + images * factor


@lowers("AveragePool")
def _average_pool(node: Node, operands: Operands) -> torch.Tensor:
    data = tensor(operands)
    kernel, strides, dilations, pads = _window(node, data)
    spatial = len(kernel)
    function: Any = (F.avg_pool1d, F.avg_pool2d, F.avg_pool3d)[spatial - 1]
    include = bool(node.attribute("count_include_pad", 0))
    if not any(pads) and set(dilations) == {1}:
        made: torch.Tensor = function(data, kernel, strides)
        return made
    given = same_pads(node, tuple(data.shape[2:]), kernel)
    counted = F.pad(torch.ones_like(data[:1, :1]), pad_flat(given), value=float(include))
    extra = tuple(p - g for p, g in zip(pads, given, strict=True))
    counted = F.pad(counted, pad_flat(extra))
    sums = _sums(F.pad(data, pad_flat(pads)), kernel, strides, dilations)
    return sums / _sums(counted, kernel, strides, dilations)


def _sums(
    x: torch.Tensor, kernel: tuple[int, ...], strides: tuple[int, ...], dilations: tuple[int, ...]
) -> torch.Tensor:
    """Return sums over windows."""
    function: Any = (F.conv1d, F.conv2d, F.conv3d)[len(kernel) - 1]
    ones = torch.ones((1, 1, *kernel), dtype=x.dtype, device=x.device)
    flat = x.reshape(-1, 1, *x.shape[2:])
    made: torch.Tensor = function(flat, ones, None, strides, 0, dilations)
    return made.reshape(*x.shape[:2], *made.shape[2:])


@lowers("LpPool")
def _lp_pool(node: Node, operands: Operands) -> torch.Tensor:
    data, power = tensor(operands), node.attribute("p", 2)
    kernel, strides, dilations, pads = _window(node, data)
    powers = data.abs().pow(power)
    return _sums(F.pad(powers, pad_flat(pads)), kernel, strides, dilations).pow(1 / power)


def _spatial_axes(data: torch.Tensor) -> tuple[int, ...]:
    return tuple(range(2, data.ndim))


@lowers("GlobalAveragePool")
def _global_average(node: Node, operands: Operands) -> torch.Tensor:  # noqa: ARG001
    data = tensor(operands)
    return data.mean(_spatial_axes(data), keepdim=True)


@lowers("GlobalMaxPool")
def _global_max(node: Node, operands: Operands) -> torch.Tensor:  # noqa: ARG001
    data = tensor(operands)
    return data.amax(_spatial_axes(data), keepdim=True)


@lowers("GlobalLpPool")
def _global_lp(node: Node, operands: Operands) -> torch.Tensor:
    data, power = tensor(operands), node.attribute("p", 2)
    return data.abs().pow(power).sum(_spatial_axes(data), keepdim=True).pow(1 / power)
