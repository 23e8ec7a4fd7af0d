"""Models to and from files: lazily read, atomically written, external data next to them."""

from __future__ import annotations

import contextlib
import mmap
import os
import stat
import sys
from collections.abc import Iterable
from pathlib import Path

import onnx
from google.protobuf.message import DecodeError, EncodeError

from qir.errors import ModelFileError, QirError
from qir.graph import QIR_DOMAIN
from qir.module import Module
from qir.onnx_io.foreign import foreign_file
from qir.onnx_io.graph_reader import GraphReader, read_opsets
from qir.onnx_io.inference import infer_stored, infer_types, is_typed
from qir.onnx_io.protos.external import DataFolder, DataWriter, is_data_name, write_piece
from qir.onnx_io.protos.metadata import read_metadata, text
from qir.onnx_io.protos.opaque import has_unknown_fields, unmodelled
from qir.onnx_io.protos.tensors import StoredTensor, byte_size, read_initializer, write_tensor
from qir.onnx_io.protos.wire import GRAPH_INITIALIZER, MODEL_GRAPH, Piece, field, split_model, split_tensor
from qir.onnx_io.skeleton import TEXTS, skeleton_of
from qir.support.atomic_write import atomic_write, is_old, make_folder, rename_all, temporary_folder
from qir.support.collection import no_collection
from qir.tensor import Tensor

LARGEST_MESSAGE = 2**31 - 1
"""Protobuf messages have fewer bytes than 2 GiB."""


def mapped_from(system: str) -> int:
    """Return the bytes from which on a model file is mapped instead of read, for a system's name as `os.name` has it.

    Windows replaces no file that is mapped, not even by `save` over the file that was loaded: there it is read.
    """
    return sys.maxsize if system == "nt" else 1 << 25


MAPPED_FROM = mapped_from(os.name)


def load(source: str | os.PathLike[str] | bytes) -> Module:
    """Read a model; weights stay in the file's bytes until they are needed.

    Data files and models of `MAPPED_FROM` bytes and more are mapped (on Windows data files alone): replace them (as
    `save` does), do not write into them, as long as the module is used.

    Args:
        source: path of an ONNX file, or its bytes.

    Raises:
        ModelFileError: the file is missing, no ONNX, truncated or invalid; the message names file and place.
    """
    if isinstance(source, bytes | bytearray | memoryview):
        return _load(bytes(source), None, "model")
    path = Path(source)
    return _load(_read(path), path.parent, str(path))


def from_proto(proto: onnx.ModelProto) -> Module:
    """Return the module of a model message.

    Raises:
        ModelFileError: the model is invalid.
    """
    return load(proto.SerializeToString())


def _read(path: Path) -> bytes | mmap.mmap:
    try:
        if path.exists() and not stat.S_ISREG(path.stat().st_mode):
            raise ModelFileError(f"{path}: is not a file: the path of an ONNX model is expected")
        with path.open("rb") as file:
            if os.fstat(file.fileno()).st_size < MAPPED_FROM:
                return file.read()
            return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise ModelFileError(f"{path}: cannot be read: {reason}; the path of an ONNX model is expected") from None


def _load(data: bytes | mmap.mmap, folder: Path | None, where: str) -> Module:
    try:
        with no_collection():
            return _decode(data, folder)
    except QirError as error:
        raise ModelFileError(f"{where}: {foreign_file(data) or error}") from error
    except DecodeError:
        reason = foreign_file(data) or "no ONNX model, truncated, or nested too deeply"
        raise ModelFileError(f"{where}: {reason}") from None
    except RecursionError:
        raise ModelFileError(f"{where}: its graphs or types nest too deeply") from None


def _import_unnamed(module: Module) -> bool:
    """Import version 1 of the custom operator sets that nodes name and the file forgets to; whether there are any."""
    named = {node.domain for node in module.graph.walk()} - {"", "ai.onnx", QIR_DOMAIN}
    missing = sorted(named - module.opsets.keys())
    module.opsets.update(dict.fromkeys(missing, 1))
    return bool(missing)


def _decode(data: bytes | mmap.mmap, folder: Path | None) -> Module:
    skeleton, messages = split_model(memoryview(data))
    proto = onnx.ModelProto.FromString(skeleton)
    graph = proto.graph
    if not proto.HasField("graph") or not (graph.node or graph.output or graph.input or messages):
        raise ModelFileError("it holds no graph: this is not an ONNX model, or an empty one; export it again")
    places = DataFolder(folder)
    reader = GraphReader(places, unknown=has_unknown_fields(onnx.ModelProto, skeleton))
    tensors = [read_initializer(message, places) for message in messages]
    module = Module(reader.read_graph(graph, tensors), ir_version=proto.ir_version)
    module.opsets = read_opsets(proto.opset_import)
    for name in TEXTS:
        setattr(module, name, text(getattr(proto, name)))
    module.model_version = proto.model_version
    module.metadata, shadowed = read_metadata(proto.metadata_props)
    module.opaque = unmodelled(proto) + onnx.ModelProto(metadata_props=shadowed).SerializeToString()
    for entry in proto.functions:
        function = reader.read_function(entry)
        if function.key in module.functions:
            raise ModelFileError(f"function {function.key} is defined twice: rename one of them")
        module.add_function(function)
    is_as_written = not _import_unnamed(module) and reader.is_as_written
    if (key := module.recursive_function()) is not None:
        raise ModelFileError(f"function {key} calls itself: ONNX forbids that")
    if not is_typed(module):
        if is_as_written and QIR_DOMAIN not in module.opsets:
            infer_stored(module, skeleton, tensors)
        else:
            infer_types(module)
    return module


# -- writing ------------------------------------------------------------------------------------------------------


def _pieces(module: Module, data: DataWriter | None) -> list[Piece]:
    """Return the serialized model; with `data`, large constants go there."""
    proto, tensors = skeleton_of(module)
    graph = onnx.GraphProto()
    graph.CopyFrom(proto.graph)
    proto.ClearField("graph")
    try:
        body: list[Piece] = [graph.SerializeToString()]
        for name, tensor in tensors:
            body += field(GRAPH_INITIALIZER, write_tensor(tensor, name, data))
        return [proto.SerializeToString(), *field(MODEL_GRAPH, body)]
    except EncodeError:
        raise ModelFileError(
            "nodes hold 2 GiB or more of constants, which no ONNX file can: move them into initializers (canonicalize)"
        ) from None


def to_bytes(module: Module) -> bytes:
    """Return the serialized model, constants inside.

    Raises:
        ModelFileError: it has 2 GiB or more (use `save`), or cannot be written.
    """
    pieces = _pieces(module, None)
    if sum(map(len, pieces)) > LARGEST_MESSAGE:
        raise ModelFileError("the model has 2 GiB or more: use `save`, which puts constants next to it")
    return b"".join(pieces)


def to_proto(module: Module) -> onnx.ModelProto:
    """Return the message of a module, constants inside.

    Raises:
        ModelFileError: as `to_bytes`.
    """
    proto: onnx.ModelProto = onnx.ModelProto.FromString(to_bytes(module))
    return proto


def save(module: Module, path: str | os.PathLike[str], *, external: bool | None = None) -> None:
    """Write a model; an older file is replaced only when the new one is complete.

    Args:
        module: what is written; it is not changed.
        path: the ONNX file, whose folder is made; external data go into `<path>.<hash of them>.data`, and
            the data file of the model that was there before is removed.
        external: whether constants of 1 KiB and more go into the data file; by default those of models that have
            2 GiB or more, or that came with external data.

    Raises:
        ModelFileError: the path cannot be written, or the module has no valid names.
    """
    path = Path(path)
    make_folder(path, ModelFileError)
    data = DataWriter(path.name) if _goes_external(module, external) else None
    pieces = _pieces(module, data)
    if sum(map(len, pieces)) > LARGEST_MESSAGE:
        raise ModelFileError(f"{path}: the model has 2 GiB or more: save it with external data")
    older = older_data_files(path)
    if data is None or not len(data):
        with atomic_write(path, ModelFileError) as model_file:
            _write(model_file, pieces)
    else:
        _write_with_data(path, data.name_in(pieces), data)
        older.discard(data.location)
    remove_data_files(path, older)


def _write(path: Path, pieces: Iterable[Piece]) -> None:
    with path.open("xb") as file:
        for piece in pieces:
            write_piece(file.write, piece)


def _write_with_data(path: Path, pieces: Iterable[Piece], data: DataWriter) -> None:
    """Write model and data file, then give them their names, the model last."""
    try:
        with temporary_folder(path) as folder:
            _write(folder / path.name, pieces)
            data.write(folder / data.location)
            rename_all(folder, [path.with_name(data.location), path])
    except OSError as error:
        raise ModelFileError(f"{path}: cannot be written: {error.strerror or error}") from error


def older_data_files(path: Path) -> set[str]:
    """Return names of the data files that go once a new model has this path.

    They are those of the model that is there, and what killed processes left.
    """
    orphans = {entry.name for entry in path.parent.glob("*.data") if is_data_name(entry.name, path.name)}
    return data_files(path) | {name for name in orphans if is_old(path.with_name(name))}


def remove_data_files(path: Path, names: Iterable[str]) -> None:
    """Remove data files that an older model of this path had, where the system lets them go."""
    for name in names:
        with contextlib.suppress(OSError):
            path.with_name(name).unlink(missing_ok=True)


def data_files(path: Path) -> set[str]:
    """Return names of the data files that a model names and that were written for its path.

    None for what is not a model.
    """
    if not path.is_file():
        return set()
    try:
        _, messages = split_model(memoryview(_read(path)))
        headers = [onnx.TensorProto.FromString(split_tensor(message)[0]) for message in messages]
    except (ModelFileError, DecodeError):
        return set()
    named = {text(entry.value) for header in headers for entry in header.external_data if entry.key == "location"}
    return {name for name in named if is_data_name(name, path.name)}


def read_model_metadata(path: str | os.PathLike[str]) -> dict[str, str]:
    """Return the key/value pairs of a model file; nothing else of it is read.

    Raises:
        ModelFileError: the file is missing or no ONNX model.
    """
    path = Path(path)
    try:
        skeleton, _ = split_model(memoryview(_read(path)))
        return read_metadata(onnx.ModelProto.FromString(skeleton).metadata_props)[0]
    except DecodeError:
        raise ModelFileError(f"{path}: no ONNX model, or truncated") from None


def _goes_external(module: Module, external: bool | None) -> bool:
    if external is not None:
        return external
    tensors = _initializers(module)
    if any(isinstance(t.source, StoredTensor) and t.source.is_external for t in tensors):
        return True
    return sum(byte_size(t.dtype, t.shape) for t in tensors) > LARGEST_MESSAGE - (1 << 26)


def _initializers(module: Module) -> list[Tensor]:
    graph = module.graph
    return [v.constant for v in (*graph.inputs, *graph.constants) if v.constant is not None]


def check_file(path: str | os.PathLike[str]) -> None:
    """Run ONNX's full checker, shape inference included.

    Raises:
        ModelFileError: the checker refuses the file; the message holds its reason.
    """
    try:
        onnx.checker.check_model(str(path), full_check=True)
    except Exception as error:
        raise ModelFileError(f"{path}: ONNX's checker refuses it: {error}") from error
