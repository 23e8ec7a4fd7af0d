"""Ids of tokens: lines of numbers, and the inputs that follow from the ids (masks, segments, positions)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from qir.errors import DataError
from qir.graph import Value
from qir.passes.data.kinds.source import Source
from qir.tensor import Array, numpy_dtype
from qir.types import TensorType

SUFFIXES = frozenset({".txt", ".ids", ".csv"})
"""How names of files of ids end."""

IDS, MASK, SEGMENTS, POSITIONS = "input_ids", "attention_mask", "token_type_ids", "position_ids"
"""Names of the inputs in networks that Hugging Face's exporter writes."""


def ids_input(inputs: Sequence[Value]) -> Value | None:
    """Return the input of ids: the one called `input_ids`, else the first where it is of integers [samples, tokens]."""
    named = next((value for value in inputs if value.name == IDS), None)
    first = inputs[0] if inputs else None
    if named is not None or first is None or not isinstance(first.type, TensorType):
        return named
    return first if first.type.rank == 2 and numpy_dtype(first.type.dtype).kind in "iu" else None


def text_source(path: Path, value: Value, most: int | None = None) -> Source:
    """Return lines of ids, separated by blanks or commas: a line is a sample.

    A line longer than the input is cut, a shorter one filled with zeros; an input of open length gets each line as it
    is.

    Raises:
        DataError: the file cannot be read, is empty, or holds anything but whole numbers.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: cannot be read as lines of ids: {error}") from error
    rows = [row for number, line in enumerate(lines, 1) if len(row := _row(path, number, line))][:most]
    if not rows:
        raise DataError(f"{path}: holds no ids: give a line of whole numbers a sample")
    shape = value.shape
    length = shape[-1] if shape else None
    lengths = [len(row) for row in rows]
    what = f"{len(rows):,} lines of {min(lengths)} to {max(lengths)} ids"
    if isinstance(length, int):
        padded = [np.pad(row[:length], (0, max(length - len(row), 0))) for row in rows]
        masks = [(np.arange(length) < len(row)).astype(np.int64) for row in rows]
        return Source(_Lines(value.name, padded, masks), what, len(rows))
    return Source(_Lines(value.name, rows, [np.ones(len(row), np.int64) for row in rows]), what, len(rows))


class _Lines:
    """Maps of ids and mask, one line each."""

    def __init__(self, name: str, rows: Sequence[Array], masks: Sequence[Array]) -> None:
        self.name, self.rows, self.masks = name, rows, masks

    def __iter__(self) -> Iterator[dict[str, Array]]:
        for row, mask in zip(self.rows, self.masks, strict=True):
            yield {self.name: row[None], MASK: mask[None]}


def _row(path: Path, number: int, line: str) -> Array:
    try:
        return np.array([int(word) for word in line.replace(",", " ").split()], np.int64)
    except (ValueError, OverflowError) as error:
        raise DataError(f"{path}: line {number} is not a line of whole numbers: {error}") from error


def with_companions(feed: dict[str, Array], names: Sequence[str]) -> dict[str, Array]:
    """Return ids with the inputs that follow from them: a mask of ones, segments of zeros, positions 0, 1, 2 and so on.

    Only what the network takes (`names`) and the data lack is added.
    """
    ids = feed.get(IDS, next(iter(feed.values()), None))
    if ids is None or ids.dtype.kind not in "iu" or ids.ndim != 2:
        return feed
    made = {
        MASK: np.ones(ids.shape, np.int64),
        SEGMENTS: np.zeros(ids.shape, np.int64),
        POSITIONS: np.broadcast_to(np.arange(ids.shape[1]), ids.shape),
    }
    return feed | {name: made[name] for name in made if name in names and name not in feed}
