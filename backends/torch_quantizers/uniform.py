"""Uniform schemes: ranges and grids without leaving the device."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from qir.backends.torch_quantizers.parameters import TorchParameters
from qir.backends.torch_quantizers.scheme import TorchScheme
from qir.quantizers.parameters import DEAD_SCALE, SMALLEST_SCALE


def symmetric_scale(magnitude: Tensor, steps: int) -> Tensor:
    """`magnitude / steps` as `qir.quantizers.scales.integer_scale` has it; differentiable."""
    divisor = torch.tensor(float(steps), device=magnitude.device).reshape(1)
    scale = torch.clamp_min(magnitude / divisor, float(SMALLEST_SCALE))
    return torch.where(magnitude > 0, scale, float(DEAD_SCALE))


class TorchUniform(TorchScheme):
    """Twin of `uniform`: signed grids are computed where the weights are (retraining refits them at every step)."""

    def parameters(
        self,
        ranges: Tensor | NDArray[np.generic],
        bits: int,
        signed: bool,
        narrow: bool = False,
        device: torch.device | str | None = None,
    ) -> TorchParameters:
        """Turn ranges into a grid, see `TorchScheme.parameters`."""
        if not isinstance(ranges, Tensor) or not signed or bits == 1:
            return super().parameters(ranges, bits, signed, narrow, device)
        self.scheme.check(bits, signed)
        half = 1 << (bits - 1)
        scale = symmetric_scale(ranges.abs().amax(1), half - 1)
        return TorchParameters(scale.to(device or ranges.device), None, -half + narrow, half - 1)

    def fit(self, x: Tensor, bits: int, signed: bool, narrow: bool = False, axis: int | None = None) -> Tensor:
        """Smallest and largest value, see `TorchScheme.fit`."""
        if signed and bits == 1:
            return super().fit(x, bits, signed, narrow, axis)
        self.scheme.check(bits, signed)
        rows = x.detach().reshape(1, -1) if axis is None else x.detach().movedim(axis, 0).reshape(x.shape[axis], -1)
        return torch.stack(torch.aminmax(rows, dim=1), dim=1)
