"""Feeds that can be read once (generators, readers, shuffling loaders), kept so that every step reads the same."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import IO, Any

import numpy as np

from qir.memory import memory_budget
from qir.passes.data.kinds.array_files import as_array
from qir.tensor import Array

IN_MEMORY = 64 << 20
"""Bytes of arrays that are kept in memory at most; what comes later goes to a temporary file."""


class Recorded:
    """What an iterable hands out, read from it only as far as somebody asks, and read again from the start.

    The first `memory` bytes, as far as the memory budget leaves them, stay in memory; the rest lies in a temporary file
    without a name, which the system removes with the process. Tensors of torch become arrays.

    Args:
        source: maps, sequences of arrays, or arrays; read once.
        memory: bytes of arrays in memory.
    """

    def __init__(self, source: Iterable[Any], memory: int = IN_MEMORY) -> None:
        self._source: Iterator[Any] | None = iter(source)
        self._kept: list[Callable[[], Any]] = []
        self._room = memory_budget().share(memory)
        self._file: IO[bytes] | None = None

    def __iter__(self) -> Iterator[Any]:
        """Yield the items from the start; those that nobody has asked for yet are read from the source."""
        at = 0
        while at < len(self._kept) or self._read_one():
            yield self._kept[at]()
            at += 1

    def _read_one(self) -> bool:
        """Keep the source's next item; False where there is none."""
        if self._source is None:
            return False
        try:
            item = next(self._source)
        except StopIteration:
            self._source = None
            return False
        self._kept.append(self._keep(item))
        return True

    def _keep(self, item: Any) -> Callable[[], Any]:
        if isinstance(item, Mapping):
            parts = {name: self._store(as_array(value)) for name, value in item.items()}
            return lambda: {name: read() for name, read in parts.items()}
        if isinstance(item, tuple | list):
            several = [self._store(as_array(value)) for value in item]
            return lambda: tuple(read() for read in several)
        return self._store(as_array(item))

    def _store(self, array: Array) -> Callable[[], Array]:
        if array.nbytes <= self._room or array.dtype.hasobject:
            self._room -= array.nbytes
            copy = array.copy()  # readers may write the next samples into the same memory
            return lambda: copy
        if self._file is None:
            self._file = tempfile.TemporaryFile(prefix="qir-samples-")  # noqa: SIM115 - lives as long as the record
        file, dtype, shape = self._file, array.dtype, array.shape
        start = file.seek(0, 2)
        file.write(np.ascontiguousarray(array).data.cast("B") if array.size else b"")

        def read() -> Array:
            file.seek(start)
            return np.frombuffer(file.read(array_bytes), dtype).reshape(shape)

        array_bytes = array.nbytes
        return read


def readable_again(data: Any) -> Any:
    """Return the data themselves, or a record of what a generator, reader or loader hands out.

    Every step reads the same.
    """
    if hasattr(data, "get_next"):
        return Recorded(iter(data.get_next, None))
    is_loader = hasattr(data, "batch_sampler") and hasattr(data, "dataset")
    return Recorded(data) if isinstance(data, Iterator) or is_loader else data
