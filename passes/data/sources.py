"""Data of any kind as a source: arrays, feeds, readers, files and folders."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sized
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

from qir.errors import DataError
from qir.graph import Value
from qir.module import Module
from qir.passes.data.batch_axes import BatchAxes, shape_of
from qir.passes.data.kinds import audio, images, text_ids
from qir.passes.data.kinds.array_files import LABELS, FileRows, labels_of, read_arrays, refuse_pipe
from qir.passes.data.kinds.preprocessing import Preprocessing, preprocessing_near
from qir.passes.data.kinds.source import Data, Source
from qir.passes.data.recording import readable_again
from qir.registry import Registry
from qir.tensor import Array

KINDS = "a .npy or .npz file, a folder of images or WAV files, lines of ids (.txt), arrays, or feeds"
"""What data may be, for messages."""

_CALLED = ("images", "image", "input", "inputs", "data", "x", "samples")
"""Names that the array of the samples may have in a file for a network of one input."""


def open_source(
    data: Data, module: Module, preprocessing: Preprocessing | None = None, most: int | None = None
) -> Source:
    """Return what data of any kind are, opened but not read.

    Args:
        data: a `Source`, anything that holds one as `source`, or what `KINDS` says.
        module: network whose inputs they are for.
        preprocessing: what is done with images; by default what a file in their folder says.
        most: samples of a folder or of a file of lines that are read at most.

    Raises:
        DataError: the data are of no known kind, or the files cannot be read.
    """
    found = getattr(data, "source", data)
    if isinstance(found, Source):
        return found
    if isinstance(found, str | Path):
        return _of_path(Path(found), module, preprocessing, most)
    if isinstance(found, np.ndarray):
        return Source((found,), "an array", len(found) if found.ndim else None)
    if isinstance(found, Mapping):
        return _of_arrays(found, module, "arrays by name")
    again = readable_again(found)
    if isinstance(again, Iterable):
        what = f"{len(found):,} feeds" if isinstance(found, Sized) else "feeds that are read once"
        return Source(again, what)
    raise DataError(f"calibration data of type {type(data).__name__}: expected {KINDS}")


Read: TypeAlias = Callable[[Path, Module, Preprocessing | None, int | None], Source]
"""From a path, the network, what is done with images, and how many samples at most, to the source."""


@dataclass(frozen=True)
class Reader:
    """How files with one ending are read.

    Attributes:
        read: opens the file, or the folder that such files lie in.
        of_folder: one file is one sample, so that data are a folder of them.
    """

    read: Read
    of_folder: bool = False


def _of_path(path: Path, module: Module, preprocessing: Preprocessing | None, most: int | None) -> Source:
    reader = _reader_of(path)
    if reader.of_folder and not path.is_dir():
        raise DataError(f"{path}: is one sample; give the folder that it lies in")
    if not reader.of_folder:
        refuse_pipe(path)
    return reader.read(path, module, preprocessing, most)


def _reader_of(path: Path) -> Reader:
    """Return the reader of a file's ending, or of the first kind of samples that a folder holds.

    Images before sounds.
    """
    if not path.is_dir():
        ending = path.suffix.lower().removeprefix(".")
        return READERS[ending if ending in READERS else "npy"]
    held = {found.suffix.lower().removeprefix(".") for pattern in ("*", "*/*") for found in path.glob(pattern)}
    kinds = (READERS[name] for name in READERS if name in held)
    return next((reader for reader in kinds if reader.of_folder), READERS["png"])


def _array_file(path: Path, module: Module, preprocessing: Preprocessing | None, most: int | None) -> Source:
    del preprocessing, most
    arrays = read_arrays(path)
    if isinstance(arrays, dict):
        return _of_arrays(arrays, module, f"arrays of {path.name}")
    what, count = f"the array of {path.name}", len(arrays) if arrays.ndim else None
    names = [value.name for value in inputs_of(module)]
    if isinstance(arrays, np.memmap) and names and BatchAxes(module).axes({names[0]: arrays})[names[0]] == 0:
        return Source(FileRows(path), what, count)
    return Source((arrays,), what, count)


def _id_file(path: Path, module: Module, preprocessing: Preprocessing | None, most: int | None) -> Source:
    del preprocessing
    value = text_ids.ids_input(inputs_of(module))
    if value is None:
        raise DataError(f"{path}: holds lines of ids; the network takes none: expected {KINDS}")
    return text_ids.text_source(path, value, most)


def _image_folder(folder: Path, module: Module, preprocessing: Preprocessing | None, most: int | None) -> Source:
    how = preprocessing_near(folder) if preprocessing is None else preprocessing
    return images.image_source(folder, _only_input(folder, module), how, most)


def _sound_folder(folder: Path, module: Module, preprocessing: Preprocessing | None, most: int | None) -> Source:
    del preprocessing
    return audio.audio_source(folder, _only_input(folder, module), most)


def _only_input(folder: Path, module: Module) -> Value:
    """Return the input that the samples of a folder are for.

    The one with the most axes, where the others are scalars.
    """
    found = inputs_of(module)
    if not found:
        raise DataError("the network has no inputs that samples are given to")
    value = max(found, key=lambda value: len(shape_of(value) or ()))
    others = [other.name for other in found if other is not value and shape_of(other) != ()]
    if others:
        raise DataError(
            f"{folder}: a folder gives samples of one input, {value.name!r}; the network takes {', '.join(others)} "
            "too: give feeds by name, or a .npz file (or freeze these inputs)"
        )
    return value


READERS: Registry[Reader] = Registry(
    "reader of samples",
    "qir.readers",
    {
        **{suffix.removeprefix("."): Reader(_image_folder, of_folder=True) for suffix in sorted(images.SUFFIXES)},
        **{suffix.removeprefix("."): Reader(_sound_folder, of_folder=True) for suffix in sorted(audio.SUFFIXES)},
        **{suffix.removeprefix("."): Reader(_id_file) for suffix in sorted(text_ids.SUFFIXES)},
        "npy": Reader(_array_file),
        "npz": Reader(_array_file),
    },
    accepts=lambda found: isinstance(found, Reader),
    expected="a qir.passes.data.sources.Reader",
    error=DataError,
)
"""Ending of a file, without its dot → how it is read; one of another package is an entry point of `qir.readers`."""


def _of_arrays(arrays: Mapping[str, Any], module: Module, what: str) -> Source:
    names = [value.name for value in inputs_of(module)]
    given = {name: array for name, array in arrays.items() if name in names or name not in LABELS}
    if len(names) == 1 and names[0] not in given:
        called = [name for name in _CALLED if name in given] or list(given)
        if len(called) == 1 or called[0] == _CALLED[0]:
            given = {names[0]: given[called[0]]}
    labels = labels_of({name: array for name, array in arrays.items() if name not in names})
    count = next((len(array) for name in names if np.ndim(array := given.get(name, 0))), None)
    return Source((given,), what, count, labels)


def inputs_of(module: Module) -> list[Value]:
    """Return the inputs that are fed: those without a constant of their own."""
    return [value for value in module.graph.inputs if value.constant is None]


def labels_of_item(item: Any, inputs: int) -> Array | None:
    """Return the labels that a loader hands out after the inputs: one array more, of whole numbers.

    None without them.
    """
    if not isinstance(item, tuple | list) or len(item) != inputs + 1:
        return None
    last = np.asarray(item[-1])
    return last if last.ndim == 1 and last.dtype.kind in "iu" else None
