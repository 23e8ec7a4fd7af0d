"""Lowerings of convolutions and matrix products."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812 - the name that PyTorch's own documentation uses

from qir.backends.torch.ops.base import Operands, lowers, optional, tensor
from qir.graph import Node
from qir.ops.families.matrix import conv_transpose_pads, same_pads


def pad_flat(pads: tuple[int, ...]) -> list[int]:
    """ONNX's begins then ends → torch's pairs from the last axis on."""
    spatial = len(pads) // 2
    return [side for axis in reversed(range(spatial)) for side in (pads[axis], pads[axis + spatial])]


def _convolve(node: Node, data: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
    spatial = weight.ndim - 2
    ones = (1,) * spatial
    pads = same_pads(node, tuple(data.shape[2:]), tuple(weight.shape[2:]))
    if pads[:spatial] != pads[spatial:]:
        data, pads = F.pad(data, pad_flat(pads)), (0,) * spatial
    function: Any = (F.conv1d, F.conv2d, F.conv3d)[spatial - 1]
    made: torch.Tensor = function(
        data,
        weight,
        bias,
        node.attribute("strides", ones),
        pads[:spatial],
        node.attribute("dilations", ones),
        node.attribute("group", 1),
    )
    return made


@lowers("Conv")
def _conv(node: Node, operands: Operands) -> torch.Tensor:
    return _convolve(node, tensor(operands, 0), tensor(operands, 1), optional(operands, 2))


@lowers("ConvTranspose")
def _conv_transpose(node: Node, operands: Operands) -> torch.Tensor:
    """Return the full result, then cropped: torch crops evenly only."""
    data, weight = tensor(operands, 0), tensor(operands, 1)
    spatial = weight.ndim - 2
    ones = (1,) * spatial
    strides, dilations = node.attribute("strides", ones), node.attribute("dilations", ones)
    sizes, kernel = tuple(data.shape[2:]), tuple(weight.shape[2:])
    full = tuple(strides[i] * (sizes[i] - 1) + (kernel[i] - 1) * dilations[i] + 1 for i in range(spatial))
    pads, output = conv_transpose_pads(node, sizes, full)
    function: Any = (F.conv_transpose1d, F.conv_transpose2d, F.conv_transpose3d)[spatial - 1]
    made: torch.Tensor = function(data, weight, None, strides, 0, 0, node.attribute("group", 1), dilations)
    ends = tuple(output[i] + pads[i] - full[i] for i in range(spatial))
    if any(pads) or any(ends):
        made = F.pad(made, pad_flat((*(-p for p in pads[:spatial]), *ends)))
    bias = optional(operands, 2)
    return made if bias is None else made + bias.reshape(-1, *ones)


@lowers("Gemm")
def _gemm(node: Node, operands: Operands) -> torch.Tensor:
    a, b, c = tensor(operands, 0), tensor(operands, 1), optional(operands, 2)
    alpha, beta = node.attribute("alpha", 1.0), node.attribute("beta", 1.0)
    a = a.T if node.attribute("transA", 0) else a
    plain = alpha == 1 and (beta == 1 or c is None)
    if plain and node.attribute("transB", 0) and (c is None or c.ndim == 1):
        return F.linear(a, b, c)
    b = b.T if node.attribute("transB", 0) else b
    product = a @ b if alpha == 1 else alpha * (a @ b)
    return product if c is None else product + (c if beta == 1 else beta * c)


@lowers("MatMul")
def _matmul(node: Node, operands: Operands) -> torch.Tensor:  # noqa: ARG001
    return torch.matmul(tensor(operands, 0), tensor(operands, 1))


@lowers("Einsum")
def _einsum(node: Node, operands: Operands) -> torch.Tensor:
    return torch.einsum(node.attribute("equation").replace(" ", ""), *(o for o in operands if o is not None))


def _centred(operands: Operands, index: int, shape: tuple[int, ...]) -> torch.Tensor:
    """Return codes minus zero point as float64, in which products of 8-bit codes are exact."""
    codes, zero = tensor(operands, index).double(), optional(operands, index + 2)
    return codes if zero is None else codes - (zero.double() if zero.ndim == 0 else zero.double().reshape(shape))


@lowers("MatMulInteger", since=10)
def _matmul_integer(node: Node, operands: Operands) -> torch.Tensor:  # noqa: ARG001
    return torch.matmul(_centred(operands, 0, (-1, 1)), _centred(operands, 1, (-1,))).int()


@lowers("ConvInteger", since=10)
def _conv_integer(node: Node, operands: Operands) -> torch.Tensor:
    weight = _centred(operands, 1, (-1, *(1,) * (tensor(operands, 1).ndim - 1)))
    return _convolve(node, _centred(operands, 0, (-1,)), weight, None).int()
