"""A quantizing scheme in torch: the twin of a numpy scheme."""

from __future__ import annotations

from typing import ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from qir.backends.torch.quantizers.affine import ScaleGradient, fake_quantize
from qir.backends.torch.quantizers.codebook import fake_quantize_levels
from qir.backends.torch.quantizers.parameters import TorchParameters
from qir.quantizers import Scheme

UNCLIPPED = frozenset({"binary", "ternary", "quaternary", "resq"})
"""Schemes for weights whose gradient passes everywhere, as their papers have it (straight-through, H' = 1)."""


class TorchScheme:
    """Fake quantization of one scheme on tensors.

    Attributes:
        scheme: the numpy definition, which turns ranges into grids.
        learns_ranges: whether `parameters` carries a gradient to the ranges it is given.
        scale_gradient: the rule for the gradient of a scale that is learned.
    """

    learns_ranges: ClassVar[bool] = False
    scale_gradient: ClassVar[ScaleGradient] = ScaleGradient.STEP

    def __init__(self, scheme: Scheme) -> None:
        self.scheme = scheme

    @property
    def name(self) -> str:
        """Name of the scheme."""
        return self.scheme.name

    def parameters(
        self,
        ranges: Tensor | NDArray[np.generic],
        bits: int,
        signed: bool,
        narrow: bool = False,
        device: torch.device | str | None = None,
    ) -> TorchParameters:
        """Turn ranges into a grid on a device.

        Args:
            ranges: [channels or 1, 2] (low, high).
            bits: width.
            signed: whether negative values are represented.
            narrow: leave the most negative code out.
            device: where to; by default where the ranges are.

        Raises:
            QirError: the scheme refuses.
        """
        array = ranges.detach().cpu().numpy() if isinstance(ranges, Tensor) else ranges
        target = device or (ranges.device if isinstance(ranges, Tensor) else "cpu")
        return TorchParameters.of(self.scheme.parameters(array, bits, signed, narrow), target)

    def fit(self, x: Tensor, bits: int, signed: bool, narrow: bool = False, axis: int | None = None) -> Tensor:
        """Choose ranges from data, as the numpy scheme does: float32 [channels or 1, 2] on the device of `x`.

        Raises:
            QirError: the scheme refuses.
        """
        return torch.from_numpy(self.scheme.fit(x.detach().cpu().numpy(), bits, signed, narrow, axis)).to(x.device)

    def fake_quantize(self, x: Tensor, parameters: TorchParameters, axis: int | None = None) -> Tensor:
        """Replace every value by the level of its code; gradients pass straight through.

        Args:
            x: float32 values, any shape.
            parameters: the grid.
            axis: axis of the channels, None for one grid.
        """
        clip = self.name not in UNCLIPPED
        if parameters.levels is not None and parameters.boundaries is not None:
            return fake_quantize_levels(x, parameters.levels, parameters.boundaries, axis, clip)
        return fake_quantize(
            x,
            parameters.scale,
            parameters.zero_point,
            parameters.low_code,
            parameters.high_code,
            axis,
            parameters.code_step,
            self.scale_gradient,
            clip,
        )

    def stored_ranges(self, ranges: Tensor, signed: bool) -> NDArray[np.float32]:  # noqa: ARG002  overridden
        """Return ranges as they are written back into the graph: float32 [channels or 1, 2]."""
        array: NDArray[np.float32] = ranges.detach().cpu().numpy().astype(np.float32)
        return array
