"""Numbers of bits that are real parameters, and numbers of bits that follow from one (AutoQNN's QPL)."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from qir.search.gradient.rounding import nearest_width

if TYPE_CHECKING:
    from qir.search.gradient.relaxed import RunningGrid


class LearnedBits(nn.Module):
    """A quantizer whose number of bits is a real parameter; it computes with the nearest legal width.

    Args:
        grid: the scheme and its ranges.
        widths: legal widths, ascending.
        start: first value of the parameter.
    """

    def __init__(self, grid: RunningGrid, widths: Sequence[int], start: float) -> None:
        super().__init__()
        self.grid, self.widths = grid, tuple(sorted(widths))
        self.bits = nn.Parameter(torch.tensor(float(np.clip(start, self.widths[0], self.widths[-1]))))

    @property
    def width(self) -> int:
        """The legal width nearest to the parameter; the smaller one where two are equally near."""
        return nearest_width(float(self.bits.detach()), self.widths)

    def forward(self, x: Tensor) -> Tensor:
        """Fake-quantize at the nearest width; the parameter receives the gradient of equation 5."""
        return quantize_with_bits(self.grid, x, self.width, self.bits, update=self.training)

    def fix(self, width: int) -> None:
        """Stop learning, at a legal width."""
        self.widths = (width,)
        self.bits.requires_grad_(False)
        self.clamp()

    def clamp(self) -> None:
        """Keep the parameter between the smallest and the largest width; call it after an optimizer's step."""
        with torch.no_grad():
            self.bits.clamp_(self.widths[0], self.widths[-1])


class FollowingBits(nn.Module):
    """A quantizer whose bits follow from those of another one, as a target ties weights to activations.

    Args:
        grid: the scheme and its ranges.
        source: what it follows.
        mapping: width of the source → width of this quantizer; between widths of the source the bits are linear.
    """

    def __init__(self, grid: RunningGrid, source: LearnedBits, mapping: Mapping[int, int]) -> None:
        super().__init__()
        self.grid, self.mapping = grid, dict(sorted(mapping.items()))
        self._source = [source]  # in a list, so that its parameter is not registered twice

    @property
    def width(self) -> int:
        """The width that belongs to the source's width."""
        return self.mapping[self._source[0].width]

    @property
    def bits(self) -> Tensor:
        """Real-valued bits, with a gradient to the source's."""
        points = torch.tensor(list(self.mapping), dtype=torch.float32)
        values = torch.tensor([float(width) for width in self.mapping.values()])
        bits = self._source[0].bits
        if len(points) == 1:
            return values[0] + 0 * bits
        index = int(torch.searchsorted(points, bits.detach(), right=True).clamp(1, len(points) - 1))
        slope = (values[index] - values[index - 1]) / (points[index] - points[index - 1])
        return values[index - 1] + slope * (bits - points[index - 1])

    def forward(self, x: Tensor) -> Tensor:
        """Fake-quantize at the width that follows; the source's parameter receives a gradient."""
        return quantize_with_bits(self.grid, x, self.width, self.bits, update=self.training)


def quantize_with_bits(grid: RunningGrid, x: Tensor, width: int, bits: Tensor, *, update: bool) -> Tensor:
    """Fake-quantize at a width; `bits` receives the gradient of equation 5.

    Args:
        grid: the scheme and its ranges.
        x: the tensor.
        width: width that is computed with.
        bits: real number of bits, a scalar.
        update: whether the grid follows the tensor.
    """
    quantized = grid.fake_quantize(x, width, update)
    result: Tensor = _BitGradient.apply(quantized, x, bits)  # type: ignore[no-untyped-call]
    return result


class _BitGradient(torch.autograd.Function):
    """Identity of the quantized tensor that gives the bits their gradient.

    AutoQNN equation 5: `dL/db = -sum(dL/dq * step * ln 2 * (H(x / step) - x / step))`, step = range / 2**b. With scale
    and step equal, `step * H(x / step)` is the quantized value, so the gradient is `-ln 2 * sum(dL/dq * (q - x))` for
    every scheme.
    """

    @staticmethod
    def forward(ctx: Any, quantized: Tensor, x: Tensor, bits: Tensor) -> Tensor:  # noqa: ARG004  bits get a gradient
        ctx.save_for_backward(quantized - x)
        return quantized.view_as(quantized)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, Tensor]:
        (error,) = ctx.saved_tensors
        return gradients[0], None, -math.log(2) * (gradients[0] * error).sum()
