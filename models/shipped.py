"""The trained networks that come with qir: where their files are and how they were made."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from qir.errors import DataError

_FOLDER = Path(__file__).parent / "trained"
_FILES = {
    "lenet": "lenet_fashion_mnist",
    "residual": "residual_fashion_mnist",
    "resnet-20": "resnet20_fashion_mnist",
    "resnet-20-cifar": "resnet20_cifar10",
}


def names() -> tuple[str, ...]:
    """Return names of the shipped networks."""
    return tuple(sorted(_FILES))


def path(name: str) -> Path:
    """Return the ONNX file of a shipped network.

    Raises:
        DataError: no network of this name comes with qir, or its file is missing.
    """
    return _file(name, ".onnx")


def card(name: str) -> dict[str, Any]:
    """Return how a shipped network was made and what it reaches: recipe, seed, split indices, accuracies, checksum.

    Raises:
        DataError: no network of this name comes with qir, or its file is missing.
    """
    content: dict[str, Any] = json.loads(_file(name, ".json").read_text(encoding="utf-8"))
    return content


def file_stem(name: str) -> str:
    """Stem that the files of a shipped network share.

    Raises:
        DataError: no network of this name comes with qir.
    """
    if name not in _FILES:
        raise DataError(f"no trained network {name!r} comes with qir; expected one of {', '.join(names())}")
    return _FILES[name]


def _file(name: str, suffix: str) -> Path:
    file = _FOLDER / (file_stem(name) + suffix)
    if not file.is_file():
        raise DataError(f"{file}: the shipped network {name!r} is missing: run `python -m qir.models.train {name}`")
    return file
