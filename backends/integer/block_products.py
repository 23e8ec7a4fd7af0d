"""Products of float rows with weights in blocks, as ONNX Runtime computes them at accuracy level 4 of MatMulNBits.

Every block of a row is quantized to int8, symmetric: scale = max|x| / 127, codes rounded half to even. Codes of weights
and rows are multiplied and summed in int32 within a block, multiplied by both scales and summed over the blocks in
float32 (MLAS, `MLAS_QNBIT_GEMM_COMPUTE_TYPE::SQNBIT_CompInt8`, read and held against ONNX Runtime 1.31.1: equal up to
the rounding of the float32 sums). CPUs without such a kernel compute with the dequantized weight in float32.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from qir.tensor import Array

SUM_ERROR = 2.0**-20
"""Largest error of a float32 sum of blocks, as a part of the sum of magnitudes: sixteen roundings of 2^-24."""

FLOAT_SUM_ERROR = 2.0**-18
"""The same where every product is added in float32."""

TIE = 2.0**-18
"""How far from a half step, as a part of the largest code, a row's value may round either way: kernels multiply by a
reciprocal that is rounded, or divide."""

_RANGE = np.float32(127)


@dataclass(frozen=True)
class BlockWeight:
    """A weight whose rows, one an output channel, lie in blocks along the axis that is summed over.

    Attributes:
        codes: int [channels, blocks, block], zero points subtracted; what fills the last block is 0.
        scales: float32 [channels, blocks].
        length: elements that are summed over.
        offset: what kernels add to codes to have them unsigned, and take off again as a sum of its own: 2^(bits-1).
    """

    codes: Array
    scales: npt.NDArray[np.float32]
    length: int
    offset: int


@dataclass(frozen=True)
class Sums:
    """Products and how far float32 may be off them.

    Attributes:
        values: float64 [rows, channels].
        error: largest error of each, float64 [rows, channels].
    """

    values: npt.NDArray[np.float64]
    error: npt.NDArray[np.float64]

    def holds(self, found: Array) -> npt.NDArray[np.bool_]:
        """Return which elements float32 sums explain: bool [rows, channels]."""
        return np.asarray(np.abs(found - self.values) <= self.error)


def int8_block_sums(rows: npt.NDArray[np.float32], weight: BlockWeight) -> Sums:
    """Return products of float32 rows [rows, length] whose blocks are quantized to int8."""
    blocks = _blocks(rows, weight)
    largest = np.abs(blocks).max(axis=2, keepdims=True)
    scale = largest / _RANGE
    with np.errstate(divide="ignore", invalid="ignore"):
        position = np.where(largest > 0, blocks * (_RANGE / largest), np.float32(0))
    codes = np.rint(position)
    tied = np.abs(np.abs(position - codes) - 0.5) <= TIE * 127
    shape = (len(rows), len(weight.codes))
    values, error = np.zeros(shape), np.zeros(shape)
    for block in range(blocks.shape[1]):
        factor = scale[:, block].astype(np.float64) * weight.scales[:, block].astype(np.float64)
        some = weight.codes[:, block].T.astype(np.float32)
        magnitude = np.abs(some)
        rounded = np.abs(codes[:, block]) @ (magnitude + weight.offset)
        values += factor * (codes[:, block] @ some)
        error += factor * (SUM_ERROR * rounded + tied[:, block] @ magnitude)
    return Sums(values, error)


def float_sums(rows: npt.NDArray[np.float32], weight: BlockWeight) -> Sums:
    """Return products of float32 rows [rows, length] with the dequantized weight."""
    blocks = _blocks(rows, weight)
    scaled = weight.codes * weight.scales[:, :, None].astype(np.float64)
    flat = (len(rows), -1), (len(weight.codes), -1)
    x, w = blocks.reshape(flat[0]).astype(np.float64), scaled.reshape(flat[1])
    return Sums(x @ w.T, FLOAT_SUM_ERROR * (np.abs(x) @ np.abs(w).T))


def _blocks(rows: npt.NDArray[np.float32], weight: BlockWeight) -> npt.NDArray[np.float32]:
    """Return rows in blocks, float32 [rows, blocks, block], filled with zeros."""
    _, count, block = weight.codes.shape
    filled = np.zeros((len(rows), count * block), np.float32)
    filled[:, : weight.length] = rows
    return filled.reshape(len(rows), count, block)
