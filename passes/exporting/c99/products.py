"""Weights of convolutions and matrix products as rows of C, and what their sums need besides.

A row holds what one output channel multiplies. Where the bits of a weight times those of an activation are at most 8,
and rows are long enough, they are bit planes that are counted (AND, then the ones); else bytes, or parts of 4, 2 and 1
bits.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from qir.guide_network import ConstantGuide, StepGuide
from qir.passes.exporting.c99.reading import numbers
from qir.passes.exporting.guide.reader import GuideReader
from qir.tensor import Array

MOST_PLANES, WORD_COST = 8, 4
"""Products of widths up to which counting bits is faster than multiplying bytes (measured in plain C), in rows where a
word that is counted stands for so many elements at least."""


@dataclass(frozen=True)
class Rows:
    """The rows of a layer.

    Attributes:
        form: `planes`, `bytes` or `words`.
        text: initializer of the array.
        type: of its elements.
        stride: elements of a row.
        bits: of a stored code.
        step, offset: integer = stored * step + offset.
        sums: sum of every row's integers.
        size: bytes of the array.
    """

    form: str
    text: str
    type: str
    stride: int
    bits: int
    step: int
    offset: int
    sums: Array
    size: int


def matrix(step: StepGuide, weight: Array) -> Array:
    """Return the integers of a weight as rows [outputs, length]."""
    if step.op == "Conv":
        return weight.reshape(len(weight), -1)
    if step.op == "ConvTranspose":
        groups = int(step.attributes.get("group", 1))
        inner = weight.reshape(groups, len(weight) // groups, weight.shape[1], -1)
        return np.asarray(inner.transpose(0, 2, 1, 3).reshape(groups * weight.shape[1], -1))
    plain = weight.reshape(weight.shape[-2:])
    return plain if step.attributes.get("transB", 0) else np.asarray(plain.T)


def rows(reader: GuideReader, step: StepGuide, constant: ConstantGuide, activation_bits: int) -> Rows:
    """Return the rows of a step's weight."""
    integers = matrix(step, reader.weight(constant))
    sums = integers.sum(axis=1)
    found = _affine(integers)
    if found is not None and _counts(found[0].bits * activation_bits, integers.shape[1]):
        codes, values = found
        words = _planes(values, codes.bits)
        text = ",".join(f"0x{word:x}u" for word in words.reshape(-1).tolist())
        return Rows(
            "planes", text, "uint64_t", words.shape[1], codes.bits, codes.step, codes.offset, sums, words.size * 8
        )
    if found is not None and found[0].bits < 8:
        codes, values = found
        parts = _parts(values, codes.bits)
        return Rows(
            "words", numbers(parts.reshape(-1).tolist()), "uint8_t", parts.shape[1], codes.bits, codes.step,
            codes.offset, sums, parts.size,
        )  # fmt: skip
    small = int(integers.min()) >= -128 and int(integers.max()) <= 127
    kind, size = ("int8_t", 1) if small else ("int16_t", 2)
    text = numbers(integers.reshape(-1).tolist())
    form = "bytes" if small else "wide"
    return Rows(form, text, kind, integers.shape[1], 8 * size, 1, 0, sums, size * integers.size)


def _counts(planes: int, length: int) -> bool:
    """Return whether rows of so many elements are counted in so many pairs of planes."""
    return planes <= MOST_PLANES and -(-length // 64) * planes * WORD_COST <= length


@dataclass(frozen=True)
class _Codes:
    bits: int
    step: int
    offset: int


def _affine(integers: Array) -> tuple[_Codes, Array] | None:
    """Return integers as stored * step + offset with as few bits as possible."""
    low, high = int(integers.min()), int(integers.max())
    step = int(np.gcd.reduce((integers - low).reshape(-1))) or 1
    values = (integers - low) // step
    bits = max(int((high - low) // step).bit_length(), 1)
    if bits > 8:
        return None
    return _Codes(bits, step, low), values


def _planes(values: Array, bits: int) -> Array:
    """Return words [rows, bits * words]: plane after plane, 64 elements a word, the first in the lowest bit."""
    words = -(-values.shape[1] // 64)
    padded = np.zeros((len(values), words * 64), np.uint64)
    padded[:, : values.shape[1]] = values
    planes = [(padded >> np.uint64(bit)) & np.uint64(1) for bit in range(bits)]
    shifts = np.arange(64, dtype=np.uint64)
    packed = [(plane.reshape(len(values), words, 64) << shifts).sum(axis=2, dtype=np.uint64) for plane in planes]
    return np.concatenate(packed, axis=1)


def _parts(values: Array, bits: int) -> Array:
    """Return bytes [rows, bytes] in the order of `qir_unpack`."""
    count, found, base = values.shape[1], [], 0
    for width in [4] * (bits // 4) + [width for width in (2, 1) if bits & width]:
        per = 8 // width
        length = -(-count // per)
        padded = np.zeros((len(values), per * length), np.int64)
        padded[:, :count] = (values >> base) & ((1 << width) - 1)
        shifts = (np.arange(per) * width).reshape(1, per, 1)
        found.append((padded.reshape(len(values), per, length) << shifts).sum(axis=1))
        base += width
    return np.concatenate(found, axis=1)
