"""Arrays from .npy and .npz files; large ones stay in the file and are read where they are used."""

from __future__ import annotations

import stat
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from qir.errors import DataError
from qir.tensor import Array

_PLAIN = frozenset("biufUS")
"""Kinds of numpy's element types that are numbers, bool or strings."""

LABELS = ("labels", "label", "targets", "y")
"""Names of the labels among the arrays of a file or a map, the first that is there."""


def read_arrays(path: str | Path) -> Array | dict[str, Array]:
    """Return the array of a .npy file, mapped from the file, or the arrays of a .npz file by name.

    Raises:
        DataError: the file is missing, damaged, encrypted, no such file, or holds anything but numbers.
    """
    refuse_pipe(Path(path))
    try:
        loaded = _load(path)
        found = loaded if isinstance(loaded, np.ndarray) else {name: loaded[name] for name in loaded.files}
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror or error}; expected a .npy or .npz file") from error
    except MemoryError as error:
        raise DataError(
            f"{path}: claims more numbers than there is memory: it is damaged, or give less data"
        ) from error
    except Exception as error:  # zipfile, zlib and numpy raise what they like for damaged files
        raise DataError(
            f"{path}: is not a .npy or .npz file of numbers, is damaged or encrypted ({type(error).__name__}): write "
            "it with numpy.save or numpy.savez"
        ) from error
    for name, array in found.items() if isinstance(found, dict) else [("", found)]:
        if not is_plain(array):
            where = f"{path}: array {name!r}" if name else str(path)
            raise DataError(f"{where}: holds {array.dtype}; expected real numbers: convert it with numpy.astype")
    return found


def _load(path: str | Path) -> Any:
    """Return what numpy reads.

    Arrays that cannot be mapped (none of their elements, or of a kind of ml_dtypes) are read.
    """
    with Path(path).open("rb") as file:
        is_array = file.read(6) == b"\x93NUMPY"
    if not is_array:
        return np.load(path, allow_pickle=False)
    mapped = np.load(path, allow_pickle=False, mmap_mode="r") if Path(path).stat().st_size > _MAPPED else None
    return np.load(path, allow_pickle=False) if mapped is None else mapped


_MAPPED = 16 << 20
"""Bytes from which on an array stays in its file."""


class FileRows:
    """The rows of a large .npy file, read a part at a time, so that memory holds one part whatever the file's size.

    Args:
        path: the file, which `read_arrays` has read.
        rows: of a part.
    """

    def __init__(self, path: Path, rows: int = 64) -> None:
        self.path, self.rows = path, rows

    def __iter__(self) -> Iterator[Array]:
        """Yield parts of at most `rows` rows, in order."""
        start = 0
        while len(part := self._part(start)):
            yield part
            start += self.rows

    def _part(self, start: int) -> Array:
        """Return one part; the file is mapped anew, as pages that were read stay in memory as long as their map."""
        return np.array(np.load(self.path, allow_pickle=False, mmap_mode="r")[start : start + self.rows])


def labels_of(arrays: Mapping[str, Any]) -> Array | None:
    """Return the labels among arrays by name: one dimension, under one of the names of `LABELS`.

    None where there are none.
    """
    found = next((np.asarray(arrays[name]) for name in LABELS if name in arrays), None)
    return None if found is None or found.ndim != 1 else found


def refuse_pipe(path: Path) -> None:
    """Refuse what is neither a file nor missing: to open a pipe would wait for its writer."""
    try:
        mode = path.stat().st_mode
    except (OSError, ValueError):
        return
    if not stat.S_ISREG(mode):
        raise DataError(f"{path}: is not a regular file; expected a file of samples, or a folder of them")


def is_plain(array: Array) -> bool:
    """Return whether elements are real numbers, bool or strings: no structs, objects, complex numbers or dates."""
    kind = array.dtype.kind
    return kind in _PLAIN or (kind == "V" and array.dtype.type is not np.void)  # ml_dtypes' floats are of kind V


def as_array(value: Any) -> Array:
    """Return the array of numbers that a value is: an array, a tensor of torch, nested lists.

    Raises:
        DataError: it is none.
    """
    try:
        return np.asarray(value.detach().cpu().numpy() if hasattr(value, "detach") else value)
    except (ValueError, TypeError, MemoryError) as error:
        raise DataError(
            f"calibration data of type {type(value).__name__} are not an array of numbers: {error}"
        ) from error
