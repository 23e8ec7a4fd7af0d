"""Lowerings of QuantizeLinear and its relatives: float32 true division, half to even, saturating."""

from __future__ import annotations

import torch

from qir.backends.torch.ops.base import Operands, Result, lowers, optional, tensor, torch_dtype
from qir.errors import QirError
from qir.graph import Node
from qir.types import DType, code_range


def _along(x: torch.Tensor, parameter: torch.Tensor, axis: int) -> torch.Tensor:
    """Return a scale or zero point [channels] in a shape that broadcasts against `x`; blocked ones are repeated."""
    if parameter.numel() == 1:
        return parameter.reshape(())
    if parameter.ndim == 1:
        shape = [1] * x.ndim
        shape[axis] = -1
        return parameter.reshape(shape)
    return parameter.repeat_interleave(-(-x.shape[axis] // parameter.shape[axis]), axis).narrow(axis, 0, x.shape[axis])


@lowers("QuantizeLinear", since=10)
def _quantize(node: Node, operands: Operands) -> torch.Tensor:
    x, axis = tensor(operands), node.attribute("axis", 1)
    zero = optional(operands, 2)
    dtype = zero.dtype if zero is not None else torch_dtype(node.attribute("output_dtype", 0) or 2)
    if dtype.is_floating_point:
        raise QirError(f"node {node}: torch execution quantizes to integers only; use OrtSession")
    low, high = _code_range(node, dtype)
    codes = torch.round(x / _along(x, tensor(operands, 1), axis))
    if zero is not None:
        codes = codes + _along(x, zero, axis).to(codes.dtype)
    return codes.clamp(low, high).to(dtype)


def _code_range(node: Node, dtype: torch.dtype) -> tuple[int, int]:
    """Return the smallest and largest code; codes of 2 and 4 bits live in tensors of 8."""
    value = node.input(2)
    stored = None if value is None else value.dtype
    if stored in {DType.INT4, DType.UINT4, DType.INT2, DType.UINT2}:
        return code_range(stored.bits, signed=stored in {DType.INT4, DType.INT2})
    bounds = torch.iinfo(dtype)
    return bounds.min, bounds.max


@lowers("DequantizeLinear", since=10)
def _dequantize(node: Node, operands: Operands) -> torch.Tensor:
    codes, scale, zero = tensor(operands), tensor(operands, 1), optional(operands, 2)
    axis = node.attribute("axis", 1)
    centred = codes.int() if zero is None else codes.int() - _along(codes, zero, axis).int()
    return centred.to(scale.dtype) * _along(codes, scale, axis)


@lowers("DynamicQuantizeLinear", since=11)
def _dynamic_quantize(node: Node, operands: Operands) -> Result:  # noqa: ARG001
    x = tensor(operands)
    low, high = x.min().clamp(max=0), x.max().clamp(min=0)
    scale = (high - low) / 255
    zero = torch.round((0 - low) / scale).clamp(0, 255)
    codes = (torch.round(x / scale) + zero).clamp(0, 255)
    return codes.to(torch.uint8), scale, zero.to(torch.uint8)
