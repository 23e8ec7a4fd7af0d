"""The binary file next to a guide: packed integers and long arrays, equal contents once."""

from __future__ import annotations

import hashlib
import zlib
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

from qir.guide_network import PackedTensor, StoredArray
from qir.packing import pack
from qir.tensor import Array

LONGEST = 64
"""Arrays of more numbers lie in the file: as text they would take a good part of the weights' bytes."""


@dataclass
class WeightsFile:
    """The contents of a weights file.

    Attributes:
        name: of the file.
        content: its bytes so far.
    """

    name: str
    content: bytearray = field(default_factory=bytearray)
    places: dict[bytes, int] = field(default_factory=dict)

    def packed(self, codes: Array, bits: int, low: int, step: int = 1) -> PackedTensor:
        """Return an entry for codes, `(code - low) / step` in `bits` bits each."""
        data = pack(codes, bits, low, step)
        digest = hashlib.sha256(data).hexdigest()
        shape, crc32 = list(codes.shape), zlib.crc32(data)
        offset = self._place(data)
        return PackedTensor(
            file=self.name, offset=offset, length=len(data), bits=bits, shape=shape, crc32=crc32, sha256=digest
        )

    def numbers(self, values: Array) -> Any:
        """Return a flat list, or where it lies in the file: float32 for floats, int32 or int64 for integers."""
        flat = np.asarray(values).reshape(-1)
        if flat.size <= LONGEST:
            return flat.tolist()
        dtype = _storage(flat)
        data = flat.astype(np.dtype(dtype).newbyteorder("<")).tobytes()
        return StoredArray(
            file=self.name, offset=self._place(data), length=len(data), dtype=dtype, crc32=zlib.crc32(data)
        )

    def sha256(self) -> str:
        """Return the digest of the whole file."""
        return hashlib.sha256(bytes(self.content)).hexdigest()

    def _place(self, data: bytes) -> int:
        key = hashlib.sha256(data).digest()
        if key not in self.places:
            self.places[key] = len(self.content)
            self.content += data
        return self.places[key]


def _storage(flat: Array) -> Literal["int32", "int64", "float32"]:
    if flat.dtype.kind == "f":
        return "float32"
    return "int32" if int(flat.min()) >= -(2**31) and int(flat.max()) < 2**31 else "int64"
