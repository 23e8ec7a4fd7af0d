"""CIFAR-10, from the official Python pickles or from JPEG files in one folder per class."""

from __future__ import annotations

import io
import os
import pickle
import tarfile
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from qir.errors import DataError
from qir.models.data.samples import Samples

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
"""Class names; the index is the label."""

VARIABLE = "QIR_CIFAR10"
_BATCHES = {"train": tuple(f"data_batch_{number}" for number in range(1, 6)), "test": ("test_batch",)}
_ALLOWED = {
    ("numpy.core.multiarray", "_reconstruct"),
    ("numpy._core.multiarray", "_reconstruct"),
    ("numpy", "ndarray"),
    ("numpy", "dtype"),
    ("_codecs", "encode"),
}


def cifar10(split: Literal["train", "test"], path: str | Path | None = None) -> Samples:
    """CIFAR-10: 50,000 and 10,000 images in the original.

    Args:
        split: `train` or `test`.
        path: the official folder `cifar-10-batches-py`; or a folder, or a tar file of any compression, that holds
            `train/<class>/*.jpg` and `test/<class>/*.jpg`. By default what the variable `QIR_CIFAR10` names.
            JPEG files need the package pillow; they are lossy, so accuracies on them compare with each other only.

    Returns:
        Images float32 [N, 3, 32, 32] in 0 to 1 (pixel / 255) and labels int64 [N]: in the official order, or sorted by
        class and file name.

    Raises:
        DataError: no such split, nothing is there, or it cannot be read.
    """
    if split not in _BATCHES:
        raise DataError(f"CIFAR-10 has no split {split!r}; expected train or test")
    place = path or os.environ.get(VARIABLE)
    if not place:
        raise DataError(
            f"CIFAR-10 does not come with qir: get cifar-10-python.tar.gz from www.cs.toronto.edu/~kriz/cifar.html, "
            f"unpack it, and name its folder cifar-10-batches-py in the variable {VARIABLE}"
        )
    place = Path(place)
    if (place / _BATCHES["test"][0]).is_file():
        pixels, labels = _read_batches(place, split)
    elif place.is_dir() or place.is_file():
        pixels, labels = _read_jpeg(place, split)
    else:
        raise DataError(f"{place}: no such file or folder; expected CIFAR-10 as pickles or JPEG files")
    return Samples.from_pixels(pixels, labels, f"cifar-10/{split}")


class _ArraysOnly(pickle.Unpickler):
    """Unpickles dictionaries of NumPy arrays and refuses every other class: a pickle may run any code otherwise."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in _ALLOWED:
            raise pickle.UnpicklingError(f"{module}.{name} does not belong into a batch of CIFAR-10")
        return super().find_class(module, name)


def _read_batches(folder: Path, split: str) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    pixels, labels = [], []
    for name in _BATCHES[split]:
        file = folder / name
        try:
            with file.open("rb") as stream:
                batch = _ArraysOnly(stream, encoding="bytes").load()
            pixels.append(np.asarray(batch[b"data"], np.uint8).reshape(-1, 3, 32, 32))
            labels.append(np.asarray(batch[b"labels"], np.int64))
        except (OSError, EOFError, KeyError, TypeError, ValueError, pickle.UnpicklingError) as error:
            raise DataError(f"{file}: is not a batch of CIFAR-10 ({error}): fetch it again") from error
    return np.concatenate(pixels), np.concatenate(labels)


def _read_jpeg(place: Path, split: str) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    try:
        from PIL import Image
    except ImportError as error:
        raise DataError(f"{place}: JPEG files need the package pillow: `pip install pillow`") from error
    pictures, labels = [], []
    try:
        for name, data in sorted(_files(place, split)):
            with Image.open(io.BytesIO(data)) as picture:
                pictures.append(np.asarray(picture.convert("RGB"), np.uint8))
            labels.append(CLASSES.index(name.split("/")[1]))
        pixels = np.stack(pictures).transpose(0, 3, 1, 2)
    except (OSError, ValueError, EOFError, tarfile.TarError) as error:
        raise DataError(f"{place}: cannot be read as {split}/<class>/*.jpg of CIFAR-10 ({error})") from error
    if pixels.shape[1:] != (3, 32, 32):
        raise DataError(f"{place}: found images of {list(pixels.shape[1:])}; expected 3x32x32")
    return pixels, np.asarray(labels, np.int64)


def _files(place: Path, split: str) -> Iterator[tuple[str, bytes]]:
    """Yield the name (`split/class/file`) and content of each JPEG file of the split."""
    if place.is_dir():
        for file in place.glob(f"{split}/*/*.jpg"):
            yield file.relative_to(place).as_posix(), file.read_bytes()
        return
    with tarfile.open(place) as archive:
        for member in archive:
            name = member.name.removeprefix("./")
            if member.isfile() and name.startswith(f"{split}/") and name.endswith(".jpg"):
                stream = archive.extractfile(member)
                if stream is not None:
                    yield name, stream.read()
