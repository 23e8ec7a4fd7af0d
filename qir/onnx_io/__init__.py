"""Reading and writing ONNX files without losing anything."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import onnx

from qir.errors import ModelFileError
from qir.module import Module
from qir.onnx_io.reader import read_module
from qir.onnx_io.writer import to_proto

__all__ = ["check_file", "load", "save", "to_bytes", "to_proto"]


def load(source: str | Path | bytes) -> Module:
    """Read a model.

    Args:
        source: path of an ONNX file, or its bytes.

    Raises:
        ModelFileError: the file is missing, no ONNX, truncated or broken; the message names file and place.
    """
    if isinstance(source, bytes):
        return read_module(source, None, "model bytes")
    path = Path(source)
    try:
        data = path.read_bytes()
    except OSError as error:
        raise ModelFileError(f"{path}: cannot be read: {error.strerror or error}") from error
    if not data:
        raise ModelFileError(f"{path}: the file is empty: expected an ONNX model")
    return read_module(data, path.parent, str(path))


def to_bytes(module: Module) -> bytes:
    """The serialized model, weights inside."""
    return to_proto(module).SerializeToString(deterministic=True)


def save(module: Module, path: str | Path) -> None:
    """Write a model atomically.

    Raises:
        ModelFileError: the folder does not exist or cannot be written.
    """
    path = Path(path)
    data = to_bytes(module)
    try:
        with tempfile.NamedTemporaryFile(dir=path.parent, prefix=f".{path.name}.", delete=False) as file:
            file.write(data)
        os.replace(file.name, path)
    except OSError as error:
        raise ModelFileError(f"{path}: cannot be written: {error.strerror or error}") from error


def check_file(path: str | Path) -> None:
    """Run ONNX's full checker, shape inference included.

    Raises:
        ModelFileError: the checker refuses the file; the message holds its reason.
    """
    try:
        onnx.checker.check_model(str(path), full_check=True)
    except Exception as error:  # noqa: BLE001 - the checker raises classes of its own, without a common base
        raise ModelFileError(f"{path}: ONNX's checker refuses it: {error}") from error
