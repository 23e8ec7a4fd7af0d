"""Fake quantization by a table of levels, with straight-through gradients."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


def fake_quantize_levels(
    x: Tensor, levels: Tensor, boundaries: Tensor, axis: int | None = None, clip: bool = True
) -> Tensor:
    """Replace every value by the level of the interval of `boundaries` it lies in (closed below).

    Equal to `qir.quantizers.kernels` to the bit, since there are only comparisons. The gradient passes straight
    through; with `clip` it is zero beyond the outermost levels by more than half of their cell.

    Args:
        x: float32 values, any shape.
        levels: float32 [channels or 1, codes].
        boundaries: float32 [channels or 1, codes - 1], ascending.
        axis: axis of the channels, None for one grid.
        clip: whether the gradient is masked outside of the grid.
    """
    result: Tensor = _Levels.apply(x, levels, boundaries, axis, clip)  # type: ignore[no-untyped-call]
    return result


class _Levels(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, levels: Tensor, boundaries: Tensor, axis: int | None, clip: bool) -> Tensor:
        if len(levels) == 1:
            last = x.dim() == 4 and x.is_contiguous(memory_format=torch.channels_last)
            rows = x.movedim(1, -1) if last else x.contiguous()  # in the order of memory, so that nothing is copied
            index = torch.bucketize(rows, boundaries[0], right=True, out_int32=True)
            result = torch.index_select(levels[0], 0, index.reshape(-1)).reshape(rows.shape)
            result = result.movedim(-1, 1) if last else result
        else:
            rows = x.movedim(axis or 0, 0)
            index = torch.searchsorted(boundaries, rows.reshape(len(levels), -1).contiguous(), right=True)
            result = torch.gather(levels, 1, index).reshape(rows.shape).movedim(0, axis or 0)
        if ctx.needs_input_grad[0] and clip and levels.shape[1] > 1:
            shape = [1] * x.dim()
            if len(levels) > 1:
                shape[axis or 0] = len(levels)
            low = (2 * levels[:, 0] - boundaries[:, 0]).reshape(shape)
            high = (2 * levels[:, -1] - boundaries[:, -1]).reshape(shape)
            ctx.save_for_backward((x >= low) & (x <= high))
        return result

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        (gradient,) = gradients
        return (gradient * ctx.saved_tensors[0] if ctx.saved_tensors else gradient), None, None, None, None
