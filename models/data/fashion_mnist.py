"""Fashion-MNIST: the slice that comes with qir, and the full set where a package or the user put it.

The four splits of the slice are disjoint. `calibration`, `retraining` and `search-validation` are fixed ranges of the
60,000 training images; `test` is the official test set. Networks shipped by `qir.models` are trained on all training
images except those of `search-validation`, so that a search never scores a network on images it was fitted to.
"""

from __future__ import annotations

import gzip
import os
import struct
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING, Literal, get_args

import numpy as np

from qir.errors import DataError
from qir.models.data.samples import Samples
from qir.support.atomic_write import atomic_write

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

Split = Literal["calibration", "retraining", "search-validation", "test"]
FullSplit = Literal["train", "test"]

FASHION_MNIST_SPLITS: tuple[Split, ...] = get_args(Split)
"""The splits of the shipped slice, disjoint."""

TRAIN_RANGES: dict[str, tuple[int, int]] = {
    "calibration": (0, 512),
    "retraining": (512, 4512),
    "search-validation": (58_000, 60_000),
}
"""First and one past the last index of each split among the official training images."""

SLICE_FILE = Path(__file__).with_name("fashion_mnist_slice.npz")
DEBIAN_FOLDER = Path("/usr/share/datasets/fashion-mnist")
VARIABLE = "QIR_FASHION_MNIST"
_FILES = {"train": "train", "test": "t10k"}
_SIZES = {"train": 60_000, "test": 10_000}


def fashion_mnist(split: Split) -> Samples:
    """Return one split of the shipped slice: 512, 4,000, 2,000 or 10,000 images of 28x28, ten classes.

    Args:
        split: `calibration`, `retraining`, `search-validation` or `test`.

    Returns:
        Images float32 [N, 1, 28, 28] in 0 to 1 (pixel / 255) and labels int64 [N].

    Raises:
        DataError: there is no such split, or the shipped file is missing or damaged.
    """
    if split not in get_args(Split):
        raise DataError(f"Fashion-MNIST has no split {split!r}; expected one of {', '.join(get_args(Split))}")
    try:
        with np.load(SLICE_FILE, allow_pickle=False) as arrays:
            pixels, labels = arrays[f"{split}.images"], arrays[f"{split}.labels"]
    except (OSError, KeyError, ValueError, zipfile.BadZipFile) as error:
        raise DataError(f"the shipped images {SLICE_FILE} cannot be read ({error}): install qir again") from error
    return Samples.from_pixels(pixels[:, None], labels, f"fashion-mnist/{split}")


def fashion_mnist_full(split: FullSplit = "train", path: str | Path | None = None) -> Samples:
    """Return the whole official training (60,000) or test (10,000) set, from its gzipped or plain idx files.

    Args:
        split: `train` or `test`.
        path: folder of the four idx files; by default the folder named by the environment variable
            `QIR_FASHION_MNIST`, else where Debian's package `dataset-fashion-mnist` puts them.

    Returns:
        Images float32 [N, 1, 28, 28] in 0 to 1 (pixel / 255) and labels int64 [N].

    Raises:
        DataError: no such split, or the files are missing or damaged; the message says how to get them.
    """
    pixels, labels = read_full(split, path)
    return Samples.from_pixels(pixels[:, None], labels, f"fashion-mnist-full/{split}")


def read_full(split: FullSplit, path: str | Path | None = None) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Pixels uint8 [N, 28, 28] and labels uint8 [N] of the full set; arguments and errors as `fashion_mnist_full`."""
    if split not in _FILES:
        raise DataError(f"the full Fashion-MNIST has no split {split!r}; expected train or test")
    folder = Path(path or os.environ.get(VARIABLE) or DEBIAN_FOLDER)
    pixels = _read_idx(folder, f"{_FILES[split]}-images-idx3-ubyte")
    labels = _read_idx(folder, f"{_FILES[split]}-labels-idx1-ubyte")
    if pixels.shape != (_SIZES[split], 28, 28) or labels.shape != (_SIZES[split],):
        found = f"images {list(pixels.shape)} and labels {list(labels.shape)}"
        raise DataError(f"{folder}: found {found}; expected {_SIZES[split]} images of 28x28 and as many labels")
    return pixels, labels


def float_training_indices() -> NDArray[np.int64]:
    """Return indices of the 58,000 official training images that shipped float networks may be trained on."""
    first, last = TRAIN_RANGES["search-validation"]
    indices = np.arange(_SIZES["train"], dtype=np.int64)
    return indices[(indices < first) | (indices >= last)]


def write_slice(target: Path, path: str | Path | None = None) -> None:
    """Write the slice that comes with qir from the full set; the same bytes each time.

    Args:
        target: the `.npz` file to write.
        path: as in `fashion_mnist_full`.
    """
    with (
        atomic_write(target, DataError) as file,
        zipfile.ZipFile(file, "w", compression=zipfile.ZIP_LZMA) as archive,
    ):
        for name, array in _slice_arrays(path):
            entry = zipfile.ZipInfo(f"{name}.npy", date_time=(1980, 1, 1, 0, 0, 0))
            entry.compress_type = zipfile.ZIP_LZMA
            with archive.open(entry, "w") as stream:
                np.lib.format.write_array(stream, array, version=(1, 0), allow_pickle=False)


def _slice_arrays(path: str | Path | None) -> Iterator[tuple[str, NDArray[np.uint8]]]:
    train_pixels, train_labels = read_full("train", path)
    for split, (first, last) in TRAIN_RANGES.items():
        yield f"{split}.images", np.ascontiguousarray(train_pixels[first:last])
        yield f"{split}.labels", np.ascontiguousarray(train_labels[first:last])
    pixels, labels = read_full("test", path)
    yield "test.images", pixels
    yield "test.labels", labels


def _read_idx(folder: Path, name: str) -> NDArray[np.uint8]:
    """Read one idx file of unsigned bytes: two zeros, 8, rank, big-endian dimensions, values."""
    file = next((f for f in (folder / f"{name}.gz", folder / name) if f.is_file()), None)
    if file is None:
        raise DataError(
            f"{folder / name}(.gz): no such file. Get Fashion-MNIST with `apt-get install dataset-fashion-mnist`, or "
            f"from github.com/zalandoresearch/fashion-mnist, and name its folder in the variable {VARIABLE}"
        )
    try:
        data = gzip.decompress(file.read_bytes()) if file.suffix == ".gz" else file.read_bytes()
        zero, kind, rank = struct.unpack_from(">HBB", data)
        shape = struct.unpack_from(f">{rank}I", data, 4)
        values = np.frombuffer(data, np.uint8, offset=4 + 4 * rank)
    except (OSError, EOFError, struct.error, ValueError) as error:
        raise DataError(f"{file}: cannot be read as an idx file ({error}): fetch it again") from error
    if (zero, kind) != (0, 8) or values.size != np.prod(shape):
        raise DataError(f"{file}: not a whole idx file of unsigned bytes: fetch it again")
    return values.reshape(shape)
