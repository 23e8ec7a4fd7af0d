"""What data of any kind are read as, before they are cut into batches."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, TypeAlias

from qir.passes.data.kinds.preprocessing import Preprocessing
from qir.tensor import Array


@dataclass(frozen=True)
class Source:
    """Items that can be read again, and what was understood of them.

    Attributes:
        items: arrays, sequences of arrays in the order of the inputs, or maps by name; read as often as asked.
        what: what the data are, in words.
        count: number of samples; None where only reading tells.
        labels: int64 [N] in the order of the items; None where there are none.
        classes: names of the classes, by label; empty where only numbers are known.
        preprocessing: what was done with images; None for data of other kinds.
        notes: more that was understood, a sentence each.
    """

    items: Iterable[Any]
    what: str
    count: int | None = None
    labels: Array | None = None
    classes: tuple[str, ...] = ()
    preprocessing: Preprocessing | None = None
    notes: tuple[str, ...] = ()


class FeedReader(Protocol):
    """ONNX Runtime's `CalibrationDataReader`: hands out one feed after another, then None."""

    def get_next(self) -> Mapping[str, Array] | None:
        """Return the next feed."""


class Sourced(Protocol):
    """What was read from a source, such as `qir.passes.data.reading.Samples`."""

    @property
    def source(self) -> Source:
        """What it was read from."""


Data: TypeAlias = str | Path | Array | Mapping[str, Any] | Iterable[Any] | FeedReader | Source | Sourced
"""Samples of any kind: a file or folder, an array, arrays by the names of the inputs, feeds, a loader, a reader."""
