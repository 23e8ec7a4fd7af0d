"""The arrays of a guide, from its JSON text or its weights file."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from qir.guide import Guide
from qir.guide_network import ConstantGuide, Integers, PackedTensor
from qir.tensor import Array


@dataclass(frozen=True)
class GuideReader:
    """A guide with the bytes of its weights file."""

    guide: Guide
    weights: bytes

    def integers(self, entry: Integers) -> Array:
        """Return a flat array: int64."""
        if isinstance(entry, list):
            return np.asarray(entry, np.int64)
        data = self.weights[entry.offset : entry.offset + entry.length]
        return np.frombuffer(data, np.dtype(entry.dtype).newbyteorder("<")).astype(np.int64)

    def stored(self, entry: PackedTensor) -> Array:
        """Return what a packed entry holds: int64, in its shape."""
        data = np.frombuffer(self.weights[entry.offset : entry.offset + entry.length], np.uint8)
        count = int(np.prod(entry.shape))
        flat = np.unpackbits(data, bitorder="little")[: count * entry.bits].reshape(count, entry.bits)
        return np.asarray((flat.astype(np.int64) @ (1 << np.arange(entry.bits))).reshape(entry.shape))

    def weight(self, entry: ConstantGuide) -> Array:
        """Return the integers of a constant: int64, in its shape."""
        stored = self.stored(entry.packed)
        whole = stored * entry.code_step + entry.low_code if entry.table is None else np.asarray(entry.table)[stored]
        zero, shape = self.integers(entry.zero_point), [1] * stored.ndim
        if entry.axis is not None and zero.size > 1:
            shape[entry.axis] = -1
        return np.asarray(whole - (zero.reshape(shape) if zero.size > 1 else zero[0]))
