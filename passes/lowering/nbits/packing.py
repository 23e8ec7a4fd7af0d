"""Codes in blocks as MatMulNBits and GatherBlockQuantized store them: rows of blocks, packed into bytes."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from qir.fake_quant import FakeQuant
from qir.granularity import PerBlock
from qir.packing import pack_rows
from qir.passes.lowering.holdings import Holding
from qir.quantizers import kernels
from qir.quantizers.blocks import blocks_shape
from qir.tensor import Array

CHANNEL_BLOCKS = (32, 64, 128)
"""Sizes of blocks of a weight with a scale per channel or tensor: the first that holds a row, else the last."""


@dataclass(frozen=True, eq=False)
class PackedBlocks:
    """A weight as rows along the axis that is summed over, or that an embedding's row runs along.

    Attributes:
        bits: width of a code in memory: 2, 4 or 8.
        block: elements that share a scale.
        codes: uint8 [rows, blocks, block]: codes plus 2^(bits-1), rows filled with what stands for zero.
        scales: float32 [rows, blocks].
        zero_points: uint8 [rows, blocks], in the same codes; None where all are 2^(bits-1).
        length: elements of a row.
    """

    bits: int
    block: int
    codes: npt.NDArray[np.uint8]
    scales: npt.NDArray[np.float32]
    zero_points: npt.NDArray[np.uint8] | None
    length: int

    @property
    def packed(self) -> npt.NDArray[np.uint8]:
        """The codes, uint8 [rows, blocks, block * bits / 8]."""
        return pack_rows(self.codes, self.bits)

    @property
    def packed_zero_points(self) -> npt.NDArray[np.uint8] | None:
        """The zero points, uint8 [rows, bytes], each row filled to whole bytes; None where they are the default."""
        if self.zero_points is None:
            return None
        missing = -self.zero_points.shape[1] % (8 // self.bits)
        return pack_rows(np.pad(self.zero_points, ((0, 0), (0, missing))), self.bits)


def blocks_of(quantizer: FakeQuant, holding: Holding, axis: int) -> PackedBlocks | None:
    """Return a weight of rank 2 in blocks along an axis.

    None where it has no integer codes, or blocks along another axis.

    Args:
        quantizer: the weight's.
        holding: how the profile holds it, in a signed container of 2, 4 or 8 bits.
        axis: axis of the blocks, 0 or 1.
    """
    codes, granularity, bits = holding.codes, quantizer.granularity, holding.container.bits
    if codes is None or codes.values.ndim != 2:
        return None
    values, shift = np.moveaxis(codes.values, axis, 1), 1 << (bits - 1)
    rows, length = values.shape
    if isinstance(granularity, PerBlock):
        if granularity.axis != axis:
            return None
        block, shape = granularity.size, blocks_shape(codes.values.shape, axis, granularity.size)
        scale, zero = (np.moveaxis(part.reshape(shape), axis, 1) for part in (codes.scale, codes.zero_point))
    else:
        if granularity.axis == axis:
            return None
        block = next((size for size in CHANNEL_BLOCKS if length <= size), CHANNEL_BLOCKS[-1])
        scale, zero = (_repeated(part, (rows, -(-length // block))) for part in (codes.scale, codes.zero_point))
    filled = np.full((rows, scale.shape[1] * block), shift, np.uint8)
    filled[:, :length] = values + shift
    return PackedBlocks(
        bits,
        block,
        filled.reshape(rows, -1, block),
        np.ascontiguousarray(scale, np.float32),
        np.ascontiguousarray(zero + shift, np.uint8) if zero.any() else None,
        length,
    )


def _repeated(values: Array, shape: tuple[int, int]) -> Array:
    """Return one number a row, or one for all, for each block of a row."""
    return np.broadcast_to(values.reshape(kernels.channel_shape(shape, values.size, 0)), shape)
