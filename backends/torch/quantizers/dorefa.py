"""DoReFa-Net: the gradient of weights passes through tanh."""

from __future__ import annotations

import torch
from torch import Tensor

from qir.backends.torch.quantizers.parameters import TorchParameters
from qir.backends.torch.quantizers.scheme import TorchScheme
from qir.quantizers.parameters import SMALLEST_SCALE


class TorchDoReFa(TorchScheme):
    """Twin of `dorefa`: straight through the rounding, exact through `tanh(w) / max|tanh(w)|` (equation 9)."""

    def fake_quantize(self, x: Tensor, parameters: TorchParameters, axis: int | None = None) -> Tensor:
        """Fake-quantize, see `TorchScheme.fake_quantize`."""
        if parameters.boundaries is None or not x.requires_grad:
            return super().fake_quantize(x, parameters, axis)
        squashed = torch.tanh(x)
        dims = tuple(dim for dim in range(x.dim()) if axis is None or dim != axis % x.dim())
        largest = squashed.abs().amax(dims, keepdim=True).detach()
        smooth = squashed / largest.clamp_min(float(SMALLEST_SCALE))  # channels of zeros have no largest value
        return super().fake_quantize(x.detach(), parameters, axis) + (smooth - smooth.detach())
