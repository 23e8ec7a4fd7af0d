"""Learned ranges: LSQ and PACT."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from qir.backends.torch.quantizers.affine import ScaleGradient
from qir.backends.torch.quantizers.parameters import TorchParameters
from qir.backends.torch.quantizers.scheme import TorchScheme
from qir.quantizers.parameters import DEAD_SCALE, SMALLEST_SCALE


def symmetric_scale(magnitude: Tensor, steps: int) -> Tensor:
    """`magnitude / steps` as `qir.quantizers.scales.integer_scale` has it; differentiable."""
    divisor = torch.tensor(float(steps), device=magnitude.device).reshape(1)
    scale = torch.clamp_min(magnitude / divisor, float(SMALLEST_SCALE))
    return torch.where(magnitude > 0, scale, float(DEAD_SCALE))


class LearnedRange(TorchScheme):
    """A scheme whose high end of the range receives a gradient; the low end is its mirror and is never read."""

    learns_ranges: ClassVar[bool] = True

    def parameters(
        self,
        ranges: Tensor | NDArray[np.generic],
        bits: int,
        signed: bool,
        narrow: bool = False,
        device: torch.device | str | None = None,
    ) -> TorchParameters:
        """Turn ranges into a grid whose scale carries a gradient to them, see `TorchScheme.parameters`."""
        if not isinstance(ranges, Tensor):
            return super().parameters(ranges, bits, signed, narrow, device)
        self.scheme.check(bits, signed)
        high = ranges[:, 1].clamp_min(0).to(device or ranges.device)
        if signed and bits == 1:
            return TorchParameters(high.clamp_min(float(SMALLEST_SCALE)), None, -1, 1, code_step=2)
        if not signed:
            top = (1 << bits) - 1
            return TorchParameters(symmetric_scale(high, top), None, 0, top)
        half = 1 << (bits - 1)
        return TorchParameters(symmetric_scale(high, half - 1), None, -half + narrow, half - 1)

    def stored_ranges(self, ranges: Tensor, signed: bool) -> NDArray[np.float32]:
        """Mirror the learned ends: float32 [channels or 1, 2]."""
        high = ranges.detach()[:, 1].clamp_min(0).cpu().numpy().astype(np.float32)
        return np.stack([-high if signed else np.zeros_like(high), high], axis=1)


class TorchLsq(LearnedRange):
    """Learned step size (Esser et al., LSQ, ICLR 2020)."""

    def fake_quantize(self, x: Tensor, parameters: TorchParameters, axis: int | None = None) -> Tensor:
        """Fake-quantize; the step's gradient is equation 3 times `1 / sqrt(N Q)` (section 2.2).

        N is the number of values that share the step, Q the largest code.
        """
        if parameters.scale.requires_grad:
            shared = x.numel() / parameters.scale.numel() * parameters.high_code
            scale = _Damped.apply(parameters.scale, shared**-0.5)  # type: ignore[no-untyped-call]
            parameters = replace(parameters, scale=scale)
        return super().fake_quantize(x, parameters, axis)


class TorchPact(LearnedRange):
    """Learned clipping (Choi et al., PACT, 2018): the clip receives what saturated values receive (equation 3)."""

    scale_gradient: ClassVar[ScaleGradient] = ScaleGradient.CLIP


class _Damped(torch.autograd.Function):
    """Identity whose gradient is multiplied by a factor."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, factor: float) -> Tensor:
        ctx.factor = factor
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        return gradients[0] * ctx.factor, None
