"""Calibration data of any common kind as a stream of feeds.

Accepted: one array (or `.npy`/`.npz` file), a map from input name to array, an iterable of such maps or of arrays, a
torch `DataLoader`, and an ONNX Runtime `CalibrationDataReader` (anything with `get_next()`).
"""

from __future__ import annotations

import math
import stat
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from qir.errors import DataError
from qir.graph import Value
from qir.module import Module
from qir.tensor import Array, numpy_dtype
from qir.types import TensorType

Feed = dict[str, Array]

_PLAIN = frozenset("biufUS")
"""Kinds of numpy's element types that are numbers, bool or strings."""

MEMORY = 256 << 20
"""Bytes that the activations of one forward pass may take while they are gathered."""

KEPT_MEMORY = 1 << 30
"""Bytes that the results of all layers may take where they are kept next to each other."""


def batches(module: Module, data: Any, *, batch: int = 64) -> Iterator[Feed]:
    """The data as feeds of at most `batch` samples, shapes checked against the network's inputs.

    Arrays of rank 0 hold for all samples. A network whose inputs fix the number of samples gets feeds of exactly that
    many; samples that fill no feed are left out.

    Raises:
        DataError: the data are empty, of an unknown kind, or do not fit the inputs (names, rank, dimensions).
    """
    names = [value.name for value in module.graph.inputs if value.constant is None]
    fixed = _fixed_batch(module)
    seen = False
    for item in _items(data):
        for feed in _split(_named(item, names), fixed or batch):
            if fixed and seen and any(len(array) != fixed for array in feed.values() if array.ndim):
                continue
            seen = True
            yield _checked(module, feed)
    if not seen:
        raise DataError("the calibration data are empty: give at least one sample")


def readable_again(data: Any) -> Any:
    """The data themselves, or a list of what a reader or generator hands out once: every step reads from the start."""
    if hasattr(data, "get_next"):
        return list(iter(data.get_next, None))
    return list(data) if isinstance(data, Iterator) else data


def samples_of(feed: Mapping[str, Array]) -> int:
    """Number of samples in a feed: the length of its first array that has one."""
    return next((len(array) for array in feed.values() if array.ndim), 1)


def fitting_batch(values: Iterable[Value], batch: int, *, memory: int = MEMORY) -> int:
    """At most `batch` samples, fewer where their float32 values would take more than `memory` bytes; at least 1.

    Values of unknown shape, and dimensions other than the first that are not known, count as little as they can.
    """
    elements = 0
    for value in values:
        shape = value.type.shape if isinstance(value.type, TensorType) else None
        elements += math.prod(dim for dim in (shape or ())[1:] if isinstance(dim, int))
    return max(min(batch, memory // (4 * max(elements, 1))), 1)


def _fixed_batch(module: Module) -> int:
    """The number of samples that all inputs fix, 0 where they do not."""
    given = [value.type for value in module.graph.inputs if value.constant is None]
    sizes = {known.shape[0] for known in given if isinstance(known, TensorType) and known.shape}
    size = sizes.pop() if len(sizes) == 1 else 0
    return size if isinstance(size, int) else 0


def _items(data: Any) -> Iterator[Any]:
    if isinstance(data, str | Path):
        yield read_arrays(data)
    elif isinstance(data, np.ndarray | Mapping):
        yield data
    elif hasattr(data, "get_next"):
        while (feed := data.get_next()) is not None:
            yield feed
    elif isinstance(data, Iterable):
        yield from data
    else:
        raise DataError(
            f"calibration data of type {type(data).__name__}: expected arrays, a .npy or .npz file, or feeds"
        )


def read_arrays(path: str | Path) -> Array | Feed:
    """The array of a .npy file, or the arrays of a .npz file by name.

    Raises:
        DataError: the file is missing, damaged, encrypted, no such file, or holds anything but numbers.
    """
    _refuse_pipe(Path(path))
    try:
        loaded = np.load(path, allow_pickle=False)
        found = loaded if isinstance(loaded, np.ndarray) else {name: loaded[name] for name in loaded.files}
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror or error}; expected a .npy or .npz file") from error
    except MemoryError as error:
        raise DataError(
            f"{path}: claims more numbers than there is memory: it is damaged, or give less data"
        ) from error
    except DataError:
        raise
    except Exception as error:  # zipfile, zlib and numpy raise what they like for damaged files
        raise DataError(
            f"{path}: is not a .npy or .npz file of numbers, is damaged or encrypted ({type(error).__name__}): write "
            "it with numpy.save or numpy.savez"
        ) from error
    for name, array in found.items() if isinstance(found, dict) else [("", found)]:
        if not _is_plain(array):
            where = f"{path}: array {name!r}" if name else str(path)
            raise DataError(f"{where}: holds {array.dtype}; expected real numbers: convert it with numpy.astype")
    return found


def _refuse_pipe(path: Path) -> None:
    """Refuse what is neither a file nor missing: to open a pipe would wait for its writer."""
    try:
        mode = path.stat().st_mode
    except (OSError, ValueError):
        return
    if not stat.S_ISREG(mode):
        raise DataError(f"{path}: is not a regular file; expected a .npy or .npz file")


def _is_plain(array: Array) -> bool:
    """Whether elements are real numbers, bool or strings: no structs, objects, complex numbers or dates."""
    kind = array.dtype.kind
    return kind in _PLAIN or (kind == "V" and array.dtype.type is not np.void)  # ml_dtypes' floats are of kind V


def _named(item: Any, names: list[str]) -> Feed:
    if isinstance(item, Mapping):
        missing = [name for name in names if name not in item]
        if missing:
            raise DataError(f"calibration data lack the input {missing[0]!r}; they hold {', '.join(map(str, item))}")
        return {name: _array(item[name]) for name in names}
    if isinstance(item, tuple | list):
        item = item[: len(names)]
        if len(item) != len(names):
            raise DataError(f"calibration data give {len(item)} arrays; the network has the inputs {', '.join(names)}")
        return dict(zip(names, map(_array, item), strict=True))
    if len(names) != 1:
        raise DataError(
            f"calibration data give one array; the network has the inputs {', '.join(names)}: give a map by name"
        )
    return {names[0]: _array(item)}


def _array(value: Any) -> Array:
    try:
        return np.asarray(value.detach().cpu().numpy() if hasattr(value, "detach") else value)
    except (ValueError, TypeError, MemoryError) as error:
        raise DataError(f"calibration data of type {type(value).__name__} are not array of numbers: {error}") from error


def _split(feed: Feed, batch: int) -> Iterator[Feed]:
    lengths = {len(array) for array in feed.values() if array.ndim}
    if len(lengths) != 1:
        yield feed
        return
    for start in range(0, lengths.pop(), batch):
        yield {name: array[start : start + batch] if array.ndim else array for name, array in feed.items()}


def _checked(module: Module, feed: Feed) -> Feed:
    for value in module.graph.inputs:
        if value.name not in feed or not isinstance(value.type, TensorType):
            continue
        array, shape = feed[value.name], value.type.shape
        if shape and isinstance(shape[0], int) and array.ndim and len(array) != shape[0]:
            raise DataError(
                f"input {value.name!r}: {len(array)} samples; the network takes exactly {shape[0]} at a time"
            )
        wanted = numpy_dtype(value.type.dtype)
        if array.dtype.kind not in "OUS" if wanted.kind == "O" else array.dtype.kind in "US" or not _is_plain(array):
            raise DataError(f"input {value.name!r}: data of type {array.dtype}; the network takes {value.type}")
        if array.dtype != wanted:
            feed[value.name] = array = array.astype(wanted)
        if shape is not None and (
            len(shape) != array.ndim
            or any(isinstance(d, int) and d != n for d, n in zip(shape[1:], array.shape[1:], strict=True))
        ):
            raise DataError(f"input {value.name!r}: data of shape {array.shape} do not fit {value.type}")
    return feed
