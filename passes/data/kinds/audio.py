"""Folders of WAV files as waveforms, read with the standard library."""

from __future__ import annotations

import wave
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from qir.errors import DataError
from qir.graph import Value
from qir.passes.data.kinds.folders import files_in
from qir.passes.data.kinds.source import Source
from qir.tensor import Array

SUFFIXES = frozenset({".wav", ".wave"})
"""How names of sounds end, in lower case."""


def audio_source(folder: Path, value: Value, most: int | None = None) -> Source:
    """Return the sounds of a folder, float32 -1 to 1, as one input takes them.

    Shape [samples, time], or with channels before time.

    A sound longer than the input is cut at its end, a shorter one filled with zeros; an input of open length gets each
    sound in its own. Several channels become their mean where the input takes one.

    Raises:
        DataError: there are no sounds, one is damaged or of another sampling rate, or the input takes no sound.
    """
    shape = value.shape
    if shape is None or len(shape) not in {1, 2, 3}:
        raise DataError(f"input {value.name!r} takes {value.type}; sounds fit inputs [samples, time], or with channels")
    files = files_in(folder, SUFFIXES).first(most)
    rates = {path: _rate(path) for path in files.paths}
    if len(set(rates.values())) > 1:
        one, other = min(rates, key=rates.__getitem__), max(rates, key=rates.__getitem__)
        raise DataError(
            f"{folder}: sounds of several rates: {one.name} {rates[one]} Hz, {other.name} {rates[other]} Hz: resample "
            "them"
        )
    count, rate = len(files.paths), next(iter(rates.values()))
    what = f"{count:,} sounds at {rate:,} Hz"
    return Source(_Sounds(files.paths, shape), what, count, files.labels, files.classes)


class _Sounds:
    """Arrays of one sound each."""

    def __init__(self, paths: tuple[Path, ...], shape: tuple[Any, ...]) -> None:
        self.paths, self.shape = paths, shape

    def __iter__(self) -> Iterator[Array]:
        for path in self.paths:
            yield self._fitted(_read(path))

    def _fitted(self, sound: Array) -> Array:
        """Return a sound [channels, time] as the input takes it."""
        length = self.shape[-1]
        if isinstance(length, int):
            sound = sound[:, :length]
            sound = np.pad(sound, ((0, 0), (0, length - sound.shape[1])))
        if len(self.shape) == 3 and self.shape[1] != 1:
            return sound[None]
        mono: Array = sound.mean(axis=0, dtype=np.float32)
        return mono.reshape((1,) * (len(self.shape) - 1) + (-1,))


def _rate(path: Path) -> int:
    with _opened(path) as file:
        return file.getframerate()


def _opened(path: Path) -> wave.Wave_read:
    try:
        return wave.open(str(path), "rb")
    except (OSError, EOFError, wave.Error, RuntimeError) as error:  # the last one where chunks do not nest
        raise DataError(f"{path}: cannot be read as a WAV file of integers (PCM): {error}") from error


def _read(path: Path) -> Array:
    """Return a sound float32 [channels, time], -1 to 1."""
    with _opened(path) as file:
        channels, width, count = file.getnchannels(), file.getsampwidth(), file.getnframes()
        try:
            data = file.readframes(count)
        except (OSError, EOFError, wave.Error, RuntimeError) as error:
            raise DataError(f"{path}: is damaged: {error}") from error
    if not 1 <= width <= 4:
        raise DataError(f"{path}: its samples have {8 * width} bits; expected 8 to 32")
    data = data[: len(data) // (channels * width) * channels * width]
    if width == 1:
        values = np.frombuffer(data, np.uint8).astype(np.float32) / 128 - 1
    else:  # the bytes become the upper ones of an int32
        parts = np.zeros((len(data) // width, 4), np.uint8)
        parts[:, 4 - width :] = np.frombuffer(data, np.uint8).reshape(-1, width)
        values = (parts.view("<i4")[:, 0] / 2.0**31).astype(np.float32)
    return values.reshape(-1, channels).T
