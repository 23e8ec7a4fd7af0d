"""Fake quantization with a width per channel."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from qir.backends.torch.quantizers.parameters import TorchParameters
from qir.backends.torch.quantizers.scheme import TorchScheme
from qir.errors import QirError


def fake_quantize_channels(
    x: Tensor, grids: Mapping[int, tuple[TorchScheme, TorchParameters]], bits: Sequence[int], axis: int
) -> Tensor:
    """Fake-quantize each channel at its own width; channels of 0 bits become zero and get no gradient.

    Equal to `qir.quantizers.fake_quantize_channels` to the bit.

    Args:
        x: float32 values, any shape.
        grids: scheme and grid of each width that occurs, each over all channels (or one).
        bits: width of each channel; 0 = pruned.
        axis: axis of the channels.

    Raises:
        QirError: a width has no grid, or there is not one width per channel.
    """
    if len(bits) != x.shape[axis]:
        raise QirError(f"per-channel widths: {len(bits)} widths for axis {axis} of shape {tuple(x.shape)}")
    result = torch.zeros_like(x)
    for width in sorted(set(bits) - {0}):
        if width not in grids:
            raise QirError(f"per-channel widths: no grid for {width} bits; calibrated are {sorted(grids)}")
        index = torch.tensor([channel for channel, own in enumerate(bits) if own == width], device=x.device)
        scheme, parameters = grids[width]
        made = scheme.fake_quantize(x.index_select(axis, index), select_channels(parameters, index), axis)
        result = result.index_copy(axis, index, made)
    return result


def select_channels(parameters: TorchParameters, index: Tensor) -> TorchParameters:
    """Return the grid of some channels; a grid that serves the whole tensor is kept as it is."""
    if parameters.scale.numel() == 1:
        return parameters

    def pick(table: Tensor | None) -> Tensor | None:
        return None if table is None else table[index]

    return replace(
        parameters,
        scale=parameters.scale[index],
        zero_point=pick(parameters.zero_point),
        levels=pick(parameters.levels),
        boundaries=pick(parameters.boundaries),
    )
