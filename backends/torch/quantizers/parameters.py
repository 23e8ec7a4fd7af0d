"""The grid of a quantizer as tensors."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from qir.quantizers import QuantParameters, kernels


@dataclass(frozen=True, slots=True, eq=False)
class TorchParameters:
    """`qir.quantizers.QuantParameters` on a device.

    Attributes:
        scale: float32 [channels or 1]; may require a gradient.
        zero_point: float32 [channels or 1], or None where it is zero everywhere.
        low_code: smallest code.
        high_code: largest code.
        code_step: distance of neighbouring codes; 2 on mid-rise grids.
        levels: float32 [channels or 1, codes] in the order of codes, where the grid is a table.
        boundaries: float32 [channels or 1, codes - 1], ascending, where the grid is a table.
    """

    scale: Tensor
    zero_point: Tensor | None
    low_code: int
    high_code: int
    code_step: int = 1
    levels: Tensor | None = None
    boundaries: Tensor | None = None

    @staticmethod
    def of(parameters: QuantParameters, device: torch.device | str = "cpu") -> TorchParameters:
        """Copy a numpy grid to a device."""
        levels = boundaries = None
        if parameters.boundaries is not None:
            table = parameters.levels if parameters.levels is not None else kernels.grid(parameters)
            levels = torch.from_numpy(table.copy()).to(device)
            boundaries = torch.from_numpy(parameters.boundaries.copy()).to(device)
        zero_point = None
        if parameters.zero_point.any():
            zero_point = torch.from_numpy(parameters.zero_point.astype("float32")).to(device)
        return TorchParameters(
            torch.from_numpy(parameters.scale.copy()).to(device),
            zero_point,
            parameters.low_code,
            parameters.high_code,
            parameters.code_step,
            levels,
            boundaries,
        )
