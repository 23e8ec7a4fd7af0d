"""Fake quantization on grids of integer codes, with straight-through gradients."""

from __future__ import annotations

from enum import Enum
from typing import Any

import torch
from torch import Tensor

_BLOCK = 1 << 20
"""Elements that are computed at a time where no gradient is needed."""


class ScaleGradient(Enum):
    """What the scale receives in the backward pass, where it requires a gradient."""

    STEP = "step"
    """`code - x / scale` inside the range, the end code outside (LSQ equation 3)."""
    CLIP = "clip"
    """Only what saturated values receive: the end code (PACT equation 3, in terms of the scale)."""


def fake_quantize(
    x: Tensor,
    scale: Tensor,
    zero_point: Tensor | None,
    low: float | Tensor,
    high: float | Tensor,
    axis: int | None = None,
    code_step: int = 1,
    scale_gradient: ScaleGradient = ScaleGradient.STEP,
    clip: bool = True,
) -> Tensor:
    """Replace every value by the level of its code: `(clamp(round(x / scale) + zero_point) - zero_point) * scale`.

    Rounding is half to even, the division a true float32 division: equal to ONNX QuantizeLinear and to
    `qir.quantizers.kernels` to the bit. The gradient passes straight through where the code is not saturated, and
    everywhere without `clip` or on the bipolar grid of 1 bit; where the scale learns, it passes strictly between the
    end codes (LSQ equation 3, PACT equation 3). NaN stays NaN.

    Args:
        x: float32 values, any shape.
        scale: float32 [channels or 1], positive; may require a gradient.
        zero_point: float32 [channels or 1] holding integers, None for zero.
        low: smallest code, or one per channel [channels].
        high: largest code, or one per channel [channels].
        axis: axis of the channels, None for one grid.
        code_step: 2 for mid-rise grids: odd codes `2 floor(x / (2 scale)) + 1`.
        scale_gradient: the rule for the gradient of `scale`.
        clip: whether the gradient of saturated values is zero.
    """
    shape = broadcast_shape(x, scale, axis)
    point = None if zero_point is None else zero_point.reshape(shape)
    ends = [end.reshape(shape) if isinstance(end, Tensor) else end for end in (low, high)]
    result: Tensor
    if code_step == 2 and isinstance(high, int | float) and high == 1:
        result = _Bipolar.apply(  # type: ignore[no-untyped-call]
            x, scale.reshape(shape)
        )
    else:
        result = _Affine.apply(  # type: ignore[no-untyped-call]
            x, scale.reshape(shape), point, ends[0], ends[1], code_step, scale_gradient, clip
        )
    return result


def broadcast_shape(x: Tensor, scale: Tensor, axis: int | None) -> list[int]:
    """Return the shape that lets [channels] broadcast against `x` along `axis`."""
    shape = [1] * x.dim()
    if scale.numel() > 1 and axis is not None:
        shape[axis] = scale.numel()
    return shape


def _odd_codes(x: Tensor, scale: Tensor) -> Tensor:
    return torch.div(x, scale * 2).floor_().mul_(2).add_(1)


def _on_grid(x: Tensor, scale: Tensor, zero_point: Tensor | None, low: Any, high: Any, code_step: int) -> Tensor:
    """Return the levels of all values, without what gradients need.

    A large tensor with one grid part by part, in cache.
    """
    made = torch.empty_like(x, dtype=torch.result_type(x, scale))
    large = scale.numel() == 1 and x.numel() > _BLOCK
    count = max(_BLOCK * len(x) // x.numel(), 1) if large else 0
    for part, levels in zip(torch.split(x, count), torch.split(made, count), strict=True) if large else [(x, made)]:
        if code_step == 1:
            torch.div(part, scale, out=levels).round_()
        else:
            torch.div(part, scale * 2, out=levels).floor_().mul_(2).add_(1)
        if zero_point is None:
            levels.clamp_(low, high).mul_(scale)
        else:
            levels.add_(zero_point).clamp_(low, high).sub_(zero_point).mul_(scale)
    return made


class _Affine(torch.autograd.Function):
    """Clamped codes times the scale; codes in steps of 1 (rounded) or 2 (odd, cut downwards)."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        scale: Tensor,
        zero_point: Tensor | None,
        low: Any,
        high: Any,
        code_step: int,
        rule: ScaleGradient,
        clip: bool,
    ) -> Tensor:
        needs_x, needs_scale = ctx.needs_input_grad[:2]
        if not (needs_x or needs_scale):
            return _on_grid(x, scale, zero_point, low, high, code_step)
        codes = torch.div(x, scale).round_() if code_step == 1 else _odd_codes(x, scale)
        if zero_point is not None:
            codes += zero_point
        ctx.rule = rule
        centred = codes.clamp(low, high)
        if not needs_scale:
            ctx.save_for_backward(torch.eq(centred, codes) if clip else None)
            return centred.sub_(zero_point).mul_(scale) if zero_point is not None else centred.mul_(scale)
        ratio = torch.div(x, scale)
        shifted = ratio if zero_point is None else ratio + zero_point
        inside = (shifted > low) & (shifted < high) if clip else None
        if zero_point is not None:
            centred -= zero_point
        ctx.save_for_backward(inside, ratio, scale, centred)
        return centred * scale

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        gradient, (inside, *rest) = gradients[0], ctx.saved_tensors
        passed = gradient if inside is None else gradient * inside
        of_scale = None
        if rest:
            ratio, scale, centred = rest
            if ctx.rule is ScaleGradient.CLIP:
                of_scale = (gradient - passed) * centred
            else:
                of_scale = gradient * centred - passed * ratio
            of_scale = of_scale.sum_to_size(scale.shape)
        return (passed if ctx.needs_input_grad[0] else None), of_scale, None, None, None, None, None, None


class _Bipolar(torch.autograd.Function):
    """The scale, with the sign of the value; the gradient of the value passes everywhere."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, scale: Tensor) -> Tensor:
        if ctx.needs_input_grad[1]:
            ctx.save_for_backward(x, scale)
        return torch.where(x >= 0, scale, -scale)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        of_scale = None
        if ctx.saved_tensors:
            x, scale = ctx.saved_tensors
            of_scale = torch.where(x >= 0, gradients[0], -gradients[0]).sum_to_size(scale.shape)
        return (gradients[0] if ctx.needs_input_grad[0] else None), of_scale
