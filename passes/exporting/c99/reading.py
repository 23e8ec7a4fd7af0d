"""Arrays of a guide, from its JSON text or its weights file, and names and numbers as C writes them."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TypeVar

import numpy as np

from qir.errors import ExportError
from qir.guide import Guide
from qir.guide_network import ConstantGuide, Integers, NetworkTensor, PackedTensor, StepGuide
from qir.tensor import Array

T = TypeVar("T")

_WORDS = """auto break case char const continue default do double else enum extern float for goto if inline int long
main register restrict return short signed sizeof static struct switch typedef union unsigned void volatile while"""
KEYWORDS = frozenset(re.findall(r"\w+", _WORDS))
"""Names that C has taken."""


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


def required(found: T | None, what: str) -> T:
    """Return what the guide has to say for the kernels to be written.

    Raises:
        ExportError: it does not; `what` says whose and what.
    """
    if found is None:
        raise ExportError(f"profile 'c99': the guide gives {what}: export the network again, quantized throughout")
    return found


def identifier(name: str) -> str:
    """Return a name as C allows it."""
    found = re.sub(r"[^0-9A-Za-z_]", "_", name).strip("_") or "net"
    return f"n_{found}" if found[0].isdigit() or found in KEYWORDS else found


def comment(text: str) -> str:
    """Return text that may stand in a comment of C, on one line."""
    return re.sub(r"[^0-9A-Za-z_ .,:;()\[\]=+x-]", "_", text)[:100]


def numbers(values: Iterable[int]) -> str:
    """Return numbers of an initializer, in lines of at most 110 characters."""
    lines, line = [], ""
    for value in values:
        text = f"{int(value)},"
        if len(line) + len(text) > 108:
            lines.append(line)
            line = ""
        line += text
    return "\n  ".join([*lines, line]).rstrip(",") or "0"


def label(step: StepGuide) -> str:
    """Return how messages and comments call a step."""
    return f"{step.op} {step.name!r}"


def elements(tensor: NetworkTensor) -> int:
    """Return the number of elements."""
    return int(np.prod(tensor.shape))
