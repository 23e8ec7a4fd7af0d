"""Packing of integer codes: n bits an element, lowest bits first; and of rows of codes that divide a byte."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from qir.errors import QirError
from qir.tensor import Array


def pack(codes: Array, bits: int, low_code: int, code_step: int = 1) -> bytes:
    """Pack `(code - low_code) / code_step` into `bits` bits each, first element in the lowest bits of the first byte.

    Args:
        codes: integer codes of any shape, taken in C order.
        bits: width, 1 to 62.
        low_code: smallest code of the grid.
        code_step: distance of neighbouring codes (2 for the codes -1 and +1 of one bit).

    Raises:
        QirError: a code does not fit.
    """
    values = (codes.reshape(-1).astype(np.int64) - low_code) // code_step
    if values.size and (values.min() < 0 or values.max() >= 2**bits):
        raise QirError(
            f"codes {codes.min()} to {codes.max()} do not fit {bits} bits from {low_code} in steps of {code_step}"
        )
    planes = (values[:, None] >> np.arange(bits)) & 1
    return np.packbits(planes.astype(np.uint8).reshape(-1), bitorder="little").tobytes()


def unpack(data: bytes, count: int, bits: int, low_code: int, code_step: int = 1) -> Array:
    """Return the inverse of `pack`: int32 [count].

    Raises:
        QirError: the data are too short.
    """
    flat = np.unpackbits(np.frombuffer(data, np.uint8), bitorder="little")
    if flat.size < count * bits:
        raise QirError(f"{len(data)} bytes hold fewer than {count} elements of {bits} bits")
    planes = flat[: count * bits].reshape(count, bits).astype(np.int32)
    return np.asarray((planes << np.arange(bits, dtype=np.int32)).sum(axis=1, dtype=np.int32) * code_step + low_code)


def pack_rows(codes: npt.NDArray[np.uint8], bits: int) -> npt.NDArray[np.uint8]:
    """Return codes of 1, 2, 4 or 8 bits [..., n] as bytes [..., n * bits / 8]; n fills whole bytes."""
    each = 8 // bits
    parts = codes.reshape(*codes.shape[:-1], -1, each)
    found = np.zeros(parts.shape[:-1], np.uint8)
    for place in range(each):
        found |= parts[..., place] << np.uint8(bits * place)
    return found


def unpack_rows(data: npt.NDArray[np.uint8], bits: int) -> npt.NDArray[np.uint8]:
    """Return the inverse of `pack_rows`."""
    parts = (data[..., None] >> np.arange(0, 8, bits, dtype=np.uint8)) & np.uint8((1 << bits) - 1)
    return parts.reshape(*data.shape[:-1], -1)
