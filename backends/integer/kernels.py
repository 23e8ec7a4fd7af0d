"""Kernels of the integer reference: one function per ONNX operator, on codes.

A kernel takes the node and its operands and returns the result, or None when these operands have no integer
arithmetic; the executor then computes the node on floats.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import TypeAlias

import numpy as np

from qir.backends.integer.resize import nearest_indices
from qir.backends.integer.saturation import lost_in_convolution, lost_in_product
from qir.backends.integer.sums import convolution, product
from qir.backends.integer.values import (
    Grid,
    Pending,
    accumulated,
    added,
    averaged,
    global_average,
    multiplied,
    rescaled,
)
from qir.backends.integer.windows import Window, transposed_window
from qir.graph import Node
from qir.tensor import Array

Operand: TypeAlias = "Array | Grid | Pending | None"
Kernel: TypeAlias = Callable[[Node, Sequence[Operand]], "Array | Grid | Pending | None"]


def conv(node: Node, operands: Sequence[Operand], saturating: bool = False) -> Pending | None:
    """Conv (grouped, depthwise, dilated; any rank): sum of (q - zp)·w, exact or clipped, plus the int32 bias."""
    data, weight, bias = _three(operands)
    scales = _scales(data, weight, axis=0)
    if scales is None or not isinstance(data, Grid) or not isinstance(weight, Grid):
        return None
    codes, kernel = data.centred(), weight.centred()
    window = Window.of(node, codes.shape[2:], kernel.shape[2:])
    total = convolution(codes, kernel, window, node.attribute("group", 1))
    if saturating:
        total = total - lost_in_convolution(node, window, data, weight)
    return _with_bias(total, _per_channel(scales, codes.ndim - 2), bias, node, _is_wide(data, weight))


def conv_transpose(node: Node, operands: Sequence[Operand]) -> Pending | None:
    """ConvTranspose: every product is added where it lands."""
    data, weight, bias = _three(operands)
    scales = _scales(data, weight, axis=1)
    if scales is None or not isinstance(data, Grid) or not isinstance(weight, Grid):
        return None
    codes, kernel = data.centred().astype(np.float64), weight.centred().astype(np.float64)
    groups, rank = node.attribute("group", 1), codes.ndim - 2
    if scales[1].size > 1:
        scales = scales[0], np.tile(scales[1], groups)
    window, full = transposed_window(node, codes.shape[2:], kernel.shape[2:])
    total = np.zeros((codes.shape[0], kernel.shape[1] * groups, *full))
    places = Window(window.kernel, window.strides, window.dilations, (0,) * rank, (0,) * rank)
    images = codes.reshape(codes.shape[0], groups, -1, *codes.shape[2:])
    taps = kernel.reshape(groups, -1, kernel.shape[1], int(np.prod(window.kernel)))
    for tap, place in enumerate(places.elements(total)):
        part = np.einsum("ngi...,gio->ngo...", images, taps[..., tap])
        place[tuple(map(slice, (None, None, *codes.shape[2:])))] += part.reshape(codes.shape[0], -1, *codes.shape[2:])
    inner = tuple(slice(b, n - e) for b, e, n in zip(window.begin, window.end, full, strict=True))
    total = total[(slice(None), slice(None), *inner)]
    return _with_bias(total, _per_channel(scales, rank), bias, node, _is_wide(data, weight))


def gemm(node: Node, operands: Sequence[Operand], saturating: bool = False) -> Pending | None:
    """Gemm with alpha = beta = 1: sums, exact or clipped, plus the int32 bias."""
    data, weight, bias = _three(operands)
    transposed = bool(node.attribute("transB", 0))
    scales = _scales(data, weight, axis=0 if transposed else 1)
    if scales is None or node.attribute("alpha", 1.0) != 1.0 or node.attribute("beta", 1.0) != 1.0:
        return None
    if not isinstance(data, Grid) or not isinstance(weight, Grid):
        return None
    if node.attribute("transA", 0):
        data = data.transposed()
    if transposed:
        weight = weight.transposed()
    total = _product(data, weight, saturating)
    return _with_bias(total, scales, bias, node, _is_wide(data, weight))


def matmul(node: Node, operands: Sequence[Operand], saturating: bool = False) -> Pending | None:
    """MatMul of two grids, the second a weight or an activation."""
    data, weight, _ = _three(operands)
    axis = -1 if isinstance(weight, Grid) and weight.codes.ndim > 1 else None
    scales = _scales(data, weight, axis=axis)
    if scales is None or not isinstance(data, Grid) or not isinstance(weight, Grid):
        return None
    return accumulated(_product(data, weight, saturating), scales, node.name, wide=_is_wide(data, weight))


def add(node: Node, operands: Sequence[Operand]) -> Pending | None:  # noqa: ARG001
    """Add of two grids."""
    first, second, _ = _three(operands)
    return added(first, second) if isinstance(first, Grid) and isinstance(second, Grid) else None


def multiply(node: Node, operands: Sequence[Operand]) -> Pending | None:  # noqa: ARG001
    """Mul of two grids."""
    first, second, _ = _three(operands)
    return multiplied(first, second) if isinstance(first, Grid) and isinstance(second, Grid) else None


def concat(node: Node, operands: Sequence[Operand]) -> Grid | Pending | None:
    """Concat of equal grids moves codes; codes of different grids are rescaled to the output's grid."""
    grids = [operand for operand in operands if isinstance(operand, Grid)]
    axis = node.attribute("axis")
    if len(grids) != len(operands) or any(grid.per_tensor() is None for grid in grids):
        return None
    if any(grid.per_tensor() != grids[0].per_tensor() for grid in grids):
        return rescaled(*grids, axis=axis)
    return replace(grids[0], codes=np.concatenate([grid.codes for grid in grids], axis))


def relu(node: Node, operands: Sequence[Operand]) -> Pending | None:  # noqa: ARG001
    """Relu of a grid or a pending result: a lower bound of its codes at the zero point."""
    value = _pending(operands[0])
    return None if value is None else value.clipped(0.0, np.inf)


def clip(node: Node, operands: Sequence[Operand]) -> Array | Pending | None:
    """Clip of codes, or of a grid or pending result: bounds of its codes."""
    value, low, high = _three(operands)
    if isinstance(value, Grid | Pending):
        bounds = [
            float(bound.reshape(-1)[0]) if isinstance(bound, np.ndarray) and bound.size else default
            for bound, default in ((low, node.attribute("min", -np.inf)), (high, node.attribute("max", np.inf)))
        ]
        pending = _pending(value)
        return None if pending is None else pending.clipped(*bounds)
    if isinstance(value, np.ndarray) and value.dtype.kind in "iu":
        limits = np.iinfo(value.dtype)
        lowest = low if isinstance(low, np.ndarray) else limits.min
        return np.asarray(np.clip(value, lowest, high if isinstance(high, np.ndarray) else limits.max))
    return None


def max_pool(node: Node, operands: Sequence[Operand]) -> Array | Grid | None:
    """MaxPool of codes or of a grid (quantization is monotone: the largest code is the largest value)."""
    value = operands[0]
    if len(node.results) > 1:
        return None
    if isinstance(value, Grid) and value.per_tensor() is not None:
        return replace(value, codes=_largest(node, value.codes))
    return _largest(node, value) if isinstance(value, np.ndarray) and value.dtype.kind in "iu" else None


def _largest(node: Node, codes: Array) -> Array:
    window = Window.of(node, codes.shape[2:], node.attribute("kernel_shape"))
    return np.asarray(np.maximum.reduce(window.elements(window.padded(codes, np.iinfo(codes.dtype).min))))


def average_pool(node: Node, operands: Sequence[Operand]) -> Pending | None:
    """AveragePool of a grid: float32 sum of the window's values in order, divided by their count.

    `count_include_pad` counts explicit padding, never what ceil_mode reaches past it.
    """
    value = operands[0]
    if not isinstance(value, Grid) or value.per_tensor() is None:
        return None
    window = Window.of(node, value.codes.shape[2:], node.attribute("kernel_shape"))
    total = np.add.reduce(window.elements(window.padded(value.real(), np.float32(0))), dtype=np.float32)
    exact = np.add.reduce(window.elements(window.padded(value.centred().astype(np.int64), 0)))
    inside, counted = np.ones((1, 1, *value.codes.shape[2:]), np.int64), int(node.attribute("count_include_pad", 0))
    count = np.asarray(sum(window.elements(window.padded(inside, counted, beyond=0))))
    return averaged(np.asarray(total / count.astype(np.float32), np.float32), exact, value.scale, count)


def global_average_pool(node: Node, operands: Sequence[Operand]) -> Pending | None:  # noqa: ARG001
    """GlobalAveragePool of a grid."""
    value = operands[0]
    if not isinstance(value, Grid) or (grid := value.per_tensor()) is None:
        return None
    axes = tuple(range(2, value.codes.ndim))
    total = value.centred().sum(axis=axes, keepdims=True, dtype=np.int64)
    return global_average(total, grid[0], int(np.prod(value.codes.shape[2:])))


def resize(node: Node, operands: Sequence[Operand]) -> Grid | None:
    """Resize with mode nearest: codes are copied."""
    value = operands[0]
    if not isinstance(value, Grid) or value.per_tensor() is None or node.attribute("mode", "nearest") != "nearest":
        return None
    constants = [operand if isinstance(operand, np.ndarray) else None for operand in (*operands, None, None, None)[2:4]]
    indices = nearest_indices(node, value.codes.shape, *constants)
    return None if indices is None else replace(value, codes=value.codes[np.ix_(*indices)])


def pad(node: Node, operands: Sequence[Operand]) -> Grid | None:
    """Pad of a grid: codes are copied, or the code of a value that lies on the grid is filled in."""
    value, pads, filler = _three(operands)
    if not isinstance(value, Grid) or (grid := value.per_tensor()) is None or not isinstance(pads, np.ndarray):
        return None
    axes = operands[3] if len(operands) > 3 else None
    rank = value.codes.ndim
    places = [int(axis) % rank for axis in axes] if isinstance(axes, np.ndarray) else list(range(rank))
    widths = [(0, 0)] * rank
    for index, axis in enumerate(places):
        widths[axis] = int(pads[index]), int(pads[index + len(places)])
    mode = node.attribute("mode", "constant")
    if min(map(min, widths)) < 0 or mode not in ("constant", "reflect", "edge", "wrap"):
        return None
    if mode != "constant":
        return replace(value, codes=np.pad(value.codes, widths, mode=mode))
    real = np.float32(filler.reshape(-1)[0]) if isinstance(filler, np.ndarray) and filler.size else np.float32(0)
    steps = np.rint(real / grid[0])
    if np.float32(steps) * grid[0] != real:
        return None
    return replace(value, codes=np.pad(value.codes, widths, constant_values=int(steps) + grid[1]))


def _three(operands: Sequence[Operand]) -> tuple[Operand, Operand, Operand]:
    first, second, third = (*operands, None, None, None)[:3]
    return first, second, third


def _product(data: Grid, weight: Grid, saturating: bool) -> Array:
    """Return the matrix product of (q - zp), exact or as CPUs that clip pairs of products compute it."""
    exact = product(data.centred(), weight.centred())
    return exact - lost_in_product(data, weight) if saturating else exact


def _pending(operand: Operand) -> Pending | None:
    """Return a grid as a result that waits for another grid."""
    if isinstance(operand, Grid) and operand.per_tensor() is not None:
        return rescaled(operand)
    return operand if isinstance(operand, Pending) else None


def _is_wide(*grids: Grid) -> bool:
    return any(grid.bits > 8 for grid in grids)


def _scales(data: Operand, weight: Operand, axis: int | None) -> tuple[Array, Array] | None:
    """float32 s_x [] and s_w [] or [channels]; None where s_w varies along another axis, or an operand has no grid."""
    if not isinstance(data, Grid) or not isinstance(weight, Grid) or data.per_tensor() is None:
        return None
    step, scale = data.scale.reshape(()), weight.scale
    if scale.size == 1:
        return step, scale.reshape(())
    alone = axis is not None and scale.size == scale.shape[axis] == weight.codes.shape[axis]
    return (step, scale.reshape(-1)) if alone else None


def _per_channel(scales: tuple[Array, Array], rank: int) -> tuple[Array, Array]:
    """Return scales of channels, shaped for [N, channels, spatial...]."""
    return scales[0], scales[1].reshape(-1, *(1,) * rank)


def _with_bias(total: Array, scales: tuple[Array, Array], bias: Operand, node: Node, wide: bool) -> Pending | None:
    """Return the sums plus a bias on their own grid; a bias on another grid, or without one, is added on floats."""
    if isinstance(bias, Grid):
        channels = (..., *(None,) * (total.ndim - 2))
        steps = np.broadcast_to(bias.scale, bias.codes.shape)[channels]
        if not _same_grid(steps, np.asarray(scales[0] * scales[1], np.float32), total.shape):
            return None
        total = total + bias.centred().astype(np.float64)[channels]
    elif bias is not None:
        return None
    return accumulated(total, scales, node.name, wide=wide)


def _same_grid(bias: Array, product: Array, shape: tuple[int, ...]) -> bool:
    """Return whether a bias has the scale of the sums, s_x·s_w, up to how the product was rounded."""
    try:
        first, second = np.broadcast_arrays(bias, product, np.empty(shape))[:2]
    except ValueError:
        return False
    return bool(np.allclose(first, second, rtol=2**-21, atol=0))


def kernel_of(op: str, saturating: bool) -> Kernel | None:
    """Return the kernel of an ONNX operator; with `saturating`, its products clip as on x86 CPUs without VNNI."""
    if op in _PRODUCTS:
        return partial(_PRODUCTS[op], saturating=saturating)
    return KERNELS.get(op)


_PRODUCTS = {"Conv": conv, "Gemm": gemm, "MatMul": matmul}

KERNELS: dict[str, Kernel] = {
    "ConvTranspose": conv_transpose,
    "Add": add,
    "Mul": multiply,
    "Concat": concat,
    "Relu": relu,
    "Clip": clip,
    "MaxPool": max_pool,
    "AveragePool": average_pool,
    "GlobalAveragePool": global_average_pool,
    "Resize": resize,
    "Pad": pad,
}
"""Kernel of each other ONNX operator with integer arithmetic."""

MOVES = frozenset(
    {
        "Reshape",
        "Flatten",
        "Transpose",
        "Squeeze",
        "Unsqueeze",
        "Identity",
        "Dropout",
        "Slice",
        "DepthToSpace",
        "SpaceToDepth",
        "Expand",
        "Gather",
        "Tile",
    }
)
"""Operators that only move elements: they are applied to codes as they stand."""
