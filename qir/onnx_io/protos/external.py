"""Tensors in files next to the model: mapped when they are read, appended one by one when they are written."""

from __future__ import annotations

import hashlib
import mmap
import os
import re
import secrets
import stat
from collections.abc import Callable
from pathlib import Path

import onnx

from qir.errors import ModelFileError
from qir.onnx_io.protos.metadata import text
from qir.onnx_io.protos.wire import Piece

ALIGNMENT = 4096
DIGITS = 16
CHUNK = 1 << 24


class DataFolder:
    """The folder of a model: maps each data file inside it once.

    Nothing outside the folder is read, neither through `..`, nor an absolute path, nor a link.
    """

    def __init__(self, folder: Path | None) -> None:
        self._folder = folder
        self._mapped: dict[str, tuple[mmap.mmap | None, int]] = {}

    def view(self, proto: onnx.TensorProto, size: int | None) -> memoryview:
        """Return the bytes of an external tensor, unread; `size` is what its type and shape ask for (None = unknown).

        Raises:
            ModelFileError: the file is missing, outside the folder or too short, or the entry is malformed.
        """
        entries = {text(entry.key): text(entry.value) for entry in proto.external_data}
        where = f"tensor {proto.name!r}"
        location = entries.get("location", "")
        offset = _number(entries.get("offset", "0"), where)
        mapped, available = self._map(location, where)
        length = _number(entries["length"], where) if "length" in entries else available - offset
        if length < 0 or offset + length > available:
            raise ModelFileError(
                f"{where}: bytes {offset} to {offset + length} of {location!r} are asked for, which has {available}: "
                "the data file is truncated or belongs to another model"
            )
        if size is not None and length != size:
            raise ModelFileError(
                f"{where}: its type and shape take {size} bytes, its entry in {location!r} has {length}"
            )
        return memoryview(mapped)[offset : offset + length] if mapped is not None else memoryview(b"")

    def _map(self, location: str, where: str) -> tuple[mmap.mmap | None, int]:
        known = self._mapped.get(location)
        if known is None:
            known = self._mapped[location] = self._open(location, where)
        return known

    def _open(self, location: str, where: str) -> tuple[mmap.mmap | None, int]:
        if self._folder is None:
            raise ModelFileError(f"{where} lies in the file {location!r}: load the model from its path, not from bytes")
        path = self._inside(self._folder, location, where)
        try:
            with path.open("rb") as file:
                size = os.fstat(file.fileno()).st_size
                return (mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) if size else None), size
        except OSError as error:
            raise ModelFileError(f"{where}: data file {path} cannot be read: {error.strerror}") from None

    @staticmethod
    def _inside(folder: Path, location: str, where: str) -> Path:
        if not location or "\0" in location or Path(location).is_absolute() or ".." in Path(location).parts:
            raise ModelFileError(
                f"{where}: external data at {location!r}: a relative path inside the model's folder is expected"
            )
        try:
            root = folder.resolve(strict=True)
            path = (root / location).resolve(strict=True)
            mode = path.stat().st_mode
        except (OSError, RuntimeError):
            raise ModelFileError(
                f"{where}: data file {location!r} is missing in {folder}: copy it next to the model"
            ) from None
        if not path.is_relative_to(root):
            raise ModelFileError(
                f"{where}: external data at {location!r} leads to {path}, outside the model's folder: copy it there"
            )
        if not stat.S_ISREG(mode):
            raise ModelFileError(f"{where}: external data at {location!r} is not a regular file")
        return path


def _number(count: str, where: str) -> int:
    if not count.isascii() or not count.isdigit() or len(count) > 18:
        raise ModelFileError(f"{where}: external data entry {count!r} is not a byte count")
    return int(count)


class DataWriter:
    """Collects the tensors that go into one data file; they are written by `write`, none is held twice.

    The file is named after its content, `<model's name>.<16 digits of SHA-256>.data`: a model never reads the data of
    another one, whatever was interrupted. Headers are written before the name is known: `name_in` puts it there.
    """

    def __init__(self, model: str) -> None:
        self._model = model
        self._stand_in = secrets.token_hex(DIGITS // 2)
        self._digest = hashlib.sha256()
        self._tensors: list[tuple[int, Piece]] = []
        self._end = 0

    def add(self, data: Piece, header: onnx.TensorProto) -> None:
        """Plan a tensor's bytes and note the place in its header."""
        offset = -(-self._end // ALIGNMENT) * ALIGNMENT
        self._tensors.append((offset, data))
        self._end = offset + len(data)
        self._digest.update(f"{offset} {len(data)} ".encode())
        write_piece(self._digest.update, data)
        header.data_location = onnx.TensorProto.EXTERNAL
        for key, value in (
            ("location", self._name(self._stand_in)),
            ("offset", str(offset)),
            ("length", str(len(data))),
        ):
            entry = header.external_data.add()
            entry.key, entry.value = key, value

    def __len__(self) -> int:
        return len(self._tensors)

    @property
    def location(self) -> str:
        """Name of the file with what was added so far."""
        return self._name(self._digest.hexdigest()[:DIGITS])

    def name_in(self, pieces: list[Piece]) -> list[Piece]:
        """Return the pieces of a model with the name of the file in its headers."""
        planned, final = (name.encode() for name in (self._name(self._stand_in), self.location))
        return [piece.replace(planned, final) if isinstance(piece, bytes) else piece for piece in pieces]

    def _name(self, digits: str) -> str:
        return f"{self._model}.{digits}.data"

    def write(self, path: Path) -> None:
        """Write the file."""
        with path.open("xb") as file:
            for offset, data in self._tensors:
                file.seek(offset)
                write_piece(file.write, data)


def is_data_name(name: str, model: str) -> bool:
    """Tell whether a data file was written for the model file of this name, by qir or a tool that appends `.data`."""
    return re.fullmatch(rf"{re.escape(model)}(\.[0-9a-f]{{{DIGITS}}})?\.data", name) is not None


def write_piece(write: Callable[[memoryview], object], data: Piece) -> None:
    """Write a piece in chunks; pages of a mapped file are given back after each."""
    view = memoryview(data)
    for start in range(0, len(view), CHUNK):
        write(view[start : start + CHUNK])
        give_back(view)


def give_back(view: memoryview) -> None:
    """Give back the memory of a mapped file's pages, where the system can; they are read again when they are needed."""
    if isinstance(view.obj, mmap.mmap) and hasattr(mmap, "MADV_DONTNEED"):
        view.obj.madvise(mmap.MADV_DONTNEED)
