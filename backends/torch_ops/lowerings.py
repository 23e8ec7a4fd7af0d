"""Torch lowerings of the operators of convolutional networks.

A lowering takes the node and its operands as tensors (None where one is left out) and returns the result.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812 - the name that PyTorch's own documentation uses

from qir.errors import QirError
from qir.graph import Node

Operands = list[torch.Tensor | None]
Lowering = Callable[[Node, Operands], torch.Tensor]


def _pads(node: Node, spatial: int, data: torch.Tensor, kernel: tuple[int, ...]) -> tuple[torch.Tensor, list[int]]:
    """Symmetric padding for the kernel, the rest padded explicitly with zeros."""
    pads = list(_padding(node, spatial, data, kernel))
    begin, end = pads[:spatial], pads[spatial:]
    if begin == end:
        return data, begin
    flat = [side for axis in reversed(range(spatial)) for side in (begin[axis], end[axis])]
    return F.pad(data, flat), [0] * spatial


def _padding(node: Node, spatial: int, data: torch.Tensor, kernel: tuple[int, ...]) -> tuple[int, ...]:
    mode = node.attribute("auto_pad", "NOTSET")
    if mode in {"NOTSET", "VALID"}:
        pads: tuple[int, ...] = node.attribute("pads", (0,) * (2 * spatial)) if mode == "NOTSET" else (0,) * (2 * spatial)
        return pads
    strides, dilations = node.attribute("strides", (1,) * spatial), node.attribute("dilations", (1,) * spatial)
    begin, end = [], []
    for size, k, s, d in zip(data.shape[2:], kernel, strides, dilations, strict=True):
        total = max((-(-size // s) - 1) * s + (k - 1) * d + 1 - size, 0)
        small, large = total // 2, total - total // 2
        begin.append(large if mode == "SAME_LOWER" else small)
        end.append(small if mode == "SAME_LOWER" else large)
    return (*begin, *end)


def _conv(node: Node, operands: Operands) -> torch.Tensor:
    data, weight, bias = _three(operands)
    spatial = weight.ndim - 2
    data, padding = _pads(node, spatial, data, tuple(weight.shape[2:]))
    function: Any = (F.conv1d, F.conv2d, F.conv3d)[spatial - 1]
    made: torch.Tensor = function(
        data, weight, bias, node.attribute("strides", (1,) * spatial), padding, node.attribute("dilations", (1,) * spatial), node.attribute("group", 1)
    )
    return made


def _three(operands: Operands) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]:
    data, weight = operands[:2]
    assert data is not None and weight is not None  # noqa: S101, PT018 - required operands
    return data, weight, operands[2] if len(operands) > 2 else None


def _gemm(node: Node, operands: Operands) -> torch.Tensor:
    a, b, c = _three(operands)
    a = a.T if node.attribute("transA", 0) else a
    b = b.T if node.attribute("transB", 0) else b
    alpha, beta = node.attribute("alpha", 1.0), node.attribute("beta", 1.0)
    product = a @ b if alpha == 1 else alpha * (a @ b)
    return product if c is None else product + (c if beta == 1 else beta * c)


def _max_pool(node: Node, operands: Operands) -> torch.Tensor:
    data = _one(operands)
    kernel = node.attribute("kernel_shape")
    spatial = len(kernel)
    pads = _padding(node, spatial, data, kernel)
    if any(pads):
        flat = [side for axis in reversed(range(spatial)) for side in (pads[axis], pads[axis + spatial])]
        data = F.pad(data, flat, value=float("-inf"))
    function: Any = (F.max_pool1d, F.max_pool2d, F.max_pool3d)[spatial - 1]
    made: torch.Tensor = function(
        data, kernel, node.attribute("strides", (1,) * spatial), 0, node.attribute("dilations", (1,) * spatial), bool(node.attribute("ceil_mode", 0))
    )
    return made


def _average_pool(node: Node, operands: Operands) -> torch.Tensor:
    data = _one(operands)
    kernel = node.attribute("kernel_shape")
    spatial = len(kernel)
    data, padding = _pads(node, spatial, data, kernel)
    function: Any = (F.avg_pool1d, F.avg_pool2d, F.avg_pool3d)[spatial - 1]
    made: torch.Tensor = function(
        data, kernel, node.attribute("strides", (1,) * spatial), padding, bool(node.attribute("ceil_mode", 0)), bool(node.attribute("count_include_pad", 0))
    )
    return made


def _batch_normalization(node: Node, operands: Operands) -> torch.Tensor:
    x, scale, bias, mean, variance = operands
    assert x is not None  # noqa: S101 - required operand
    return F.batch_norm(x, mean, variance, scale, bias, training=False, eps=node.attribute("epsilon", 1e-5))


def _one(operands: Operands) -> torch.Tensor:
    data = operands[0]
    assert data is not None  # noqa: S101 - required operand
    return data


def _clip(node: Node, operands: Operands) -> torch.Tensor:
    bounds: list[Any] = [*operands[1:], None, None][:2]
    low, high = (node.attribute(name) if bound is None else bound for name, bound in zip(("min", "max"), bounds, strict=True))
    data = _one(operands)
    return data if low is None and high is None else torch.clamp(data, low, high)


def _reshape(node: Node, operands: Operands) -> torch.Tensor:
    data = _one(operands)
    shape = operands[1]
    assert shape is not None  # noqa: S101 - required operand
    sizes = [int(size) for size in shape]
    if not node.attribute("allowzero", 0):
        sizes = [data.shape[axis] if size == 0 else size for axis, size in enumerate(sizes)]
    return data.reshape(sizes)


def _flatten(node: Node, operands: Operands) -> torch.Tensor:
    data, axis = _one(operands), node.attribute("axis", 1)
    axis = axis + data.ndim if axis < 0 else axis
    rows = 1
    for size in data.shape[:axis]:
        rows *= size
    return data.reshape(rows, -1)


def _spatial_mean(node: Node, operands: Operands) -> torch.Tensor:  # noqa: ARG001
    data = _one(operands)
    return data.mean(tuple(range(2, data.ndim)), keepdim=True)


def _reduce_mean(node: Node, operands: Operands) -> torch.Tensor:
    data = _one(operands)
    given = operands[1] if len(operands) > 1 else None
    axes = node.attribute("axes") if given is None else tuple(int(a) for a in given)
    return data.mean(axes or tuple(range(data.ndim)), keepdim=bool(node.attribute("keepdims", 1)))


def _softmax(node: Node, operands: Operands) -> torch.Tensor:
    return torch.softmax(_one(operands), node.attribute("axis", -1))


def _transpose(node: Node, operands: Operands) -> torch.Tensor:
    data = _one(operands)
    return data.permute(node.attribute("perm") or tuple(reversed(range(data.ndim))))


def _concat(node: Node, operands: Operands) -> torch.Tensor:
    return torch.cat([o for o in operands if o is not None], node.attribute("axis"))


def _hard_sigmoid(node: Node, operands: Operands) -> torch.Tensor:
    return torch.clamp(node.attribute("alpha", 0.2) * _one(operands) + node.attribute("beta", 0.5), 0, 1)


def _unary(function: Callable[[torch.Tensor], torch.Tensor]) -> Lowering:
    return lambda _, operands: function(_one(operands))


def _binary(function: Callable[[Any, Any], torch.Tensor]) -> Lowering:
    return lambda _, operands: function(operands[0], operands[1])


LOWERINGS: dict[str, Lowering] = {
    "Add": _binary(torch.add),
    "AveragePool": _average_pool,
    "BatchNormalization": _batch_normalization,
    "Clip": _clip,
    "Concat": _concat,
    "Conv": _conv,
    "Div": _binary(torch.div),
    "Dropout": _unary(lambda x: x),
    "Flatten": _flatten,
    "Gemm": _gemm,
    "GlobalAveragePool": _spatial_mean,
    "HardSigmoid": _hard_sigmoid,
    "HardSwish": _unary(F.hardswish),
    "Identity": _unary(lambda x: x),
    "MatMul": _binary(torch.matmul),
    "MaxPool": _max_pool,
    "Mul": _binary(torch.mul),
    "ReduceMean": _reduce_mean,
    "Relu": _unary(torch.relu),
    "Reshape": _reshape,
    "Sigmoid": _unary(torch.sigmoid),
    "Softmax": _softmax,
    "Sub": _binary(torch.sub),
    "Tanh": _unary(torch.tanh),
    "Transpose": _transpose,
}
"""Op type of ONNX's own domain → lowering."""


def lowering_of(node: Node) -> Lowering:
    """The lowering of a node.

    Raises:
        QirError: torch execution does not know the op.
    """
    found = LOWERINGS.get(node.op) if node.domain in {"", "ai.onnx"} else None
    if found is None:
        raise QirError(f"node {node}: torch execution does not know this op; it knows {', '.join(LOWERINGS)}")
    return found
