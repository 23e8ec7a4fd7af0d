"""Grids for blocks along an axis, in torch: the twin of `qir.quantizers.blocks`."""

from __future__ import annotations

from math import prod

import torch
from torch import Tensor

from qir.backends.torch.quantizers.parameters import TorchParameters
from qir.backends.torch.quantizers.scheme import TorchScheme
from qir.granularity import Granularity, PerBlock
from qir.quantizers.blocks import blocks_shape


def to_rows(x: Tensor, axis: int, block: int) -> Tensor:
    """Return a tensor as [blocks, block], see `qir.quantizers.blocks.to_rows`; differentiable."""
    counts = blocks_shape(tuple(x.shape), axis, block)
    missing = counts[axis] * block - x.shape[axis]
    if missing:
        last = x.narrow(axis, x.shape[axis] - 1, 1)
        x = torch.cat([x, last.repeat_interleave(missing, axis)], axis)
    return x.reshape(*counts[: axis + 1], block, *counts[axis + 1 :]).movedim(axis + 1, -1).reshape(prod(counts), block)


def from_rows(rows: Tensor, shape: tuple[int, ...], axis: int, block: int) -> Tensor:
    """Return the tensor of a shape whose rows these are; differentiable."""
    counts = blocks_shape(shape, axis, block)
    parted = rows.reshape(*counts, block).movedim(-1, axis + 1)
    return parted.reshape(*counts[:axis], counts[axis] * block, *counts[axis + 1 :]).narrow(axis, 0, shape[axis])


def fake_quantize(x: Tensor, scheme: TorchScheme, parameters: TorchParameters, granularity: Granularity) -> Tensor:
    """Fake-quantize with one grid a tensor, a channel or a block.

    Args:
        x: float32 values, any shape.
        scheme: the scheme.
        parameters: grids: one, one a channel, or one a block in C order of the tensor of blocks.
        granularity: which elements share a grid.
    """
    if not isinstance(granularity, PerBlock):
        return scheme.fake_quantize(x, parameters, granularity.axis)
    axis, block = granularity.axis, granularity.size
    return from_rows(scheme.fake_quantize(to_rows(x, axis, block), parameters, 0), tuple(x.shape), axis, block)
