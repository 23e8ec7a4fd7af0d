"""Tensors to and from `TensorProto`; the bytes of an untouched tensor are written back as they were read."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import onnx
from google.protobuf.message import DecodeError

from qir.errors import ModelFileError, TypeVerifyError
from qir.onnx_io.protos.external import DataFolder, DataWriter, give_back
from qir.onnx_io.protos.metadata import read_metadata, text, write_metadata
from qir.onnx_io.protos.opaque import unmodelled
from qir.onnx_io.protos.wire import TENSOR_RAW_DATA, Piece, field, split_tensor
from qir.tensor import Array, Tensor, numpy_dtype
from qir.types import DType

EXTERNAL_FROM = 1024
"""Tensors of fewer bytes stay in the model file when the others go next to it."""

_TYPED_FIELD = {
    DType.FLOAT32: "float_data",
    DType.COMPLEX64: "float_data",
    DType.FLOAT64: "double_data",
    DType.COMPLEX128: "double_data",
    DType.INT64: "int64_data",
    DType.UINT64: "uint64_data",
    DType.UINT32: "uint64_data",
}
_COMPLEX = (DType.COMPLEX64, DType.COMPLEX128)
_FIELD_DTYPE = {
    "float_data": np.float32,
    "double_data": np.float64,
    "int64_data": np.int64,
    "uint64_data": np.uint64,
    "int32_data": np.int32,
}


class StoredTensor:
    """What a file holds of a tensor.

    Attributes:
        header: its message, without `raw` when that is set.
        raw: little-endian bytes of the elements, a view of the file; None when the header holds the elements.
        message: the whole message as it stands in the file, or None when only `header` holds it.
        is_external: whether `raw` lies in a data file next to the model.
        sparse: the sparse tensor that the tensor stands for, or None.
    """

    __slots__ = ("header", "is_external", "message", "raw", "sparse")

    def __init__(self, header: onnx.TensorProto, raw: memoryview | None, message: memoryview | None) -> None:
        self.header = header
        self.raw = raw
        self.message = message
        self.is_external = False
        self.sparse: onnx.SparseTensorProto | None = None

    @property
    def sparse_bytes(self) -> bytes | None:
        """The sparse tensor, serialized, or None."""
        return None if self.sparse is None else self.sparse.SerializeToString()

    def release(self) -> None:
        """Give back the memory of a mapped file's pages."""
        if self.raw is not None:
            give_back(self.raw)


def byte_size(dtype: DType, shape: tuple[int, ...]) -> int:
    """Return bytes of a tensor's elements, packed; strings count 0."""
    return -(-math.prod(shape) * dtype.bits // 8)


def read_initializer(message: memoryview, folder: DataFolder) -> Tensor:
    """Return a tensor from its serialized message; its elements are neither read nor copied.

    Raises:
        ModelFileError: the message is damaged, has no name, or has fewer bytes than its shape asks for.
    """
    rest, raw = split_tensor(message)
    try:
        header = onnx.TensorProto.FromString(rest)
    except DecodeError:
        raise ModelFileError("an initializer is damaged: its bytes are not TensorProto") from None
    if not header.name:  # two bytes: a small file could hold half a million
        raise ModelFileError("an initializer is without a name: no node can read it; the file is damaged")
    return _make(StoredTensor(header, raw, message), folder)


def read_tensor(proto: onnx.TensorProto, folder: DataFolder) -> Tensor:
    """Return a tensor from its message, which is kept until the elements are read.

    Raises:
        ModelFileError: element type or shape are invalid.
    """
    return _make(StoredTensor(proto, None, None), folder)


def _make(stored: StoredTensor, folder: DataFolder) -> Tensor:
    header = stored.header
    name = text(header.name)
    shape = tuple(header.dims)
    try:
        dtype = DType.from_onnx(header.data_type)
    except TypeVerifyError as error:
        raise ModelFileError(f"tensor {name!r}: {error}") from None
    if any(d < 0 for d in shape):
        raise ModelFileError(f"tensor {name!r}: shape {shape} has a negative dimension; the file is damaged")
    if header.data_location == onnx.TensorProto.EXTERNAL:
        stored.raw = folder.view(header, None if dtype.bits == 0 else byte_size(dtype, shape))
        stored.is_external = True
    if not header.HasField("segment"):
        _check_length(stored, dtype, shape)
    tensor = Tensor(dtype, shape, lambda: _read_elements(stored, dtype, shape), name=name, source=stored)
    tensor.doc_string = text(header.doc_string)
    tensor.metadata, _ = read_metadata(header.metadata_props)
    tensor.opaque = unmodelled(header)
    return tensor


def _check_length(stored: StoredTensor, dtype: DType, shape: tuple[int, ...]) -> None:
    header = stored.header
    if dtype is DType.STRING:
        unit, expected, found = "strings", math.prod(shape), len(header.string_data)
    elif stored.raw is not None or header.HasField("raw_data"):
        unit, expected = "bytes", byte_size(dtype, shape)
        found = len(header.raw_data if stored.raw is None else stored.raw)
    else:
        name = _TYPED_FIELD.get(dtype, "int32_data")
        count = math.prod(shape) * (2 if dtype in _COMPLEX else 1)
        unit, found = f"entries of {name}", len(getattr(header, name))
        expected = byte_size(dtype, shape) if dtype.bits < 8 else count
    if found != expected:
        raise ModelFileError(
            f"tensor {header.name!r}: {dtype} of shape {shape} takes {expected} {unit}, the file has {found}: "
            "it is damaged"
        )


def read_sparse(proto: onnx.SparseTensorProto, folder: DataFolder) -> Tensor:
    """Return a constant tensor that stands for a sparse initializer; it is made dense when its elements are read.

    Raises:
        ModelFileError: element type or shape are invalid.
    """
    values = read_tensor(proto.values, folder)
    indices = read_tensor(proto.indices, folder)
    shape = tuple(proto.dims)
    if any(d < 0 for d in shape):
        raise ModelFileError(f"sparse tensor {values.name!r}: shape {shape} has a negative dimension")

    def read() -> Array:
        where = indices.numpy()
        flat = where if where.ndim == 1 else np.ravel_multi_index(tuple(where.T), shape)
        dense = np.zeros(shape, numpy_dtype(values.dtype))
        dense.reshape(-1)[flat] = values.numpy()
        return dense

    stored = StoredTensor(proto.values, None, None)
    stored.sparse = proto
    return Tensor(values.dtype, shape, lambda: _guard(read, values.name), name=values.name, source=stored)


def sparse_of(data: bytes) -> Tensor:
    """Return a constant tensor that stands for a serialized `SparseTensorProto` without external data.

    Raises:
        ModelFileError: the bytes are not sparse tensor, or element type or shape are invalid.
    """
    try:
        proto = onnx.SparseTensorProto.FromString(data)
    except DecodeError:
        raise ModelFileError("the bytes of a sparse tensor are not SparseTensorProto") from None
    return read_sparse(proto, DataFolder(None))


def _read_elements(stored: StoredTensor, dtype: DType, shape: tuple[int, ...]) -> Array:
    return _guard(lambda: _decode(stored, dtype, shape), stored.header.name)


def _guard(read: Any, name: str) -> Array:
    try:
        array: Array = read()
    except (ValueError, TypeError, IndexError, OverflowError, MemoryError) as error:
        raise ModelFileError(f"tensor {name!r}: its elements cannot be read: {error}") from None
    return array


def _decode(stored: StoredTensor, dtype: DType, shape: tuple[int, ...]) -> Array:
    header = stored.header
    if dtype is DType.STRING:
        strings = np.empty(len(header.string_data), object)
        strings[:] = list(header.string_data)
        return strings.reshape(shape)
    if stored.raw is not None or header.HasField("raw_data"):
        return decode_bytes(header.raw_data if stored.raw is None else stored.raw, dtype, shape)
    name = _TYPED_FIELD.get(dtype, "int32_data")
    values = np.array(getattr(header, name), _FIELD_DTYPE[name])
    target = numpy_dtype(dtype)
    if dtype in _COMPLEX:
        return values.view(target).reshape(shape)
    if dtype.bits < 8:
        return decode_bytes(values.astype(np.uint8).tobytes(), dtype, shape)
    if name == "int32_data" and target.kind not in "iu" and dtype is not DType.BOOL:
        return values.astype(np.uint16 if dtype.bits == 16 else np.uint8).view(target).reshape(shape)
    return values.astype(target).reshape(shape)


def decode_bytes(data: Piece, dtype: DType, shape: tuple[int, ...]) -> Array:
    """Return elements from ONNX's raw bytes.

    Little-endian, several to a byte below 8 bits (the first in the lowest bits).
    """
    target = numpy_dtype(dtype)
    if dtype.bits >= 8:
        if dtype is DType.BOOL:
            flags: Array = (np.frombuffer(data, np.uint8) != 0).reshape(shape)
            return flags
        return np.frombuffer(data, target.newbyteorder("<") if target.isbuiltin == 1 else target).reshape(shape)
    packed = np.frombuffer(data, np.uint8)
    shifts = np.arange(0, 8, dtype.bits, dtype=np.uint8)
    codes = (packed[:, None] >> shifts & (1 << dtype.bits) - 1).reshape(-1)[: math.prod(shape)].reshape(shape)
    if dtype in (DType.INT4, DType.INT2):
        unused = 8 - dtype.bits
        signed: Array = ((codes << unused).view(np.int8) >> unused).astype(target)
        return signed
    return codes.astype(target) if dtype in (DType.UINT4, DType.UINT2) else codes.view(target)


def encode_bytes(array: Array, dtype: DType) -> memoryview:
    """ONNX's raw bytes of an array: the inverse of `decode_bytes`; not copied when they lie in memory like that."""
    array = np.ascontiguousarray(array)
    codes: Array
    if dtype.bits >= 8:
        if array.dtype.byteorder == ">":
            array = array.astype(array.dtype.newbyteorder("<"))
        return array.reshape(-1).view(np.uint8).data
    codes = (array.view(np.uint8) if dtype is DType.FLOAT4E2M1 else array.astype(np.int8).view(np.uint8)).reshape(-1)
    codes = codes & np.uint8((1 << dtype.bits) - 1)
    per_byte = 8 // dtype.bits
    codes = np.pad(codes, (0, -len(codes) % per_byte)).reshape(-1, per_byte)
    packed: Array = np.bitwise_or.reduce(codes << np.arange(0, 8, dtype.bits, dtype=np.uint8), axis=1).astype(np.uint8)
    return packed.data


def write_tensor(tensor: Tensor, name: str, data: DataWriter | None = None) -> list[Piece]:
    """Return a serialized `TensorProto` in pieces; with `data`, elements go there when they are large enough.

    Args:
        tensor: what to write.
        name: its name in the file.
        data: file next to the model for large tensors, or None.

    Raises:
        ModelFileError: the elements cannot be read.
    """
    stored = tensor.source if isinstance(tensor.source, StoredTensor) and tensor.source.sparse is None else None
    to_data = data is not None and byte_size(tensor.dtype, tensor.shape) >= EXTERNAL_FROM
    if stored is not None and not to_data and not stored.is_external and _is_unchanged(tensor, name, stored.header):
        return [stored.header.SerializeToString() if stored.message is None else stored.message]
    header = onnx.TensorProto(dims=tensor.shape, data_type=tensor.dtype.onnx_code)
    if tensor.opaque:
        header.MergeFromString(tensor.opaque)
    if name:
        header.name = name
    if tensor.doc_string:
        header.doc_string = tensor.doc_string
    write_metadata(tensor.metadata, header.metadata_props)
    if tensor.dtype is DType.STRING:
        header.string_data.extend(s if isinstance(s, bytes) else str(s).encode() for s in tensor.numpy().reshape(-1))
        return [header.SerializeToString()]
    raw: Piece = (
        stored.raw if stored is not None and stored.raw is not None else encode_bytes(tensor.numpy(), tensor.dtype)
    )
    if data is not None and to_data:
        data.add(raw, header)
        return [header.SerializeToString()]
    return [header.SerializeToString(), *field(TENSOR_RAW_DATA, [raw])]


def _is_unchanged(tensor: Tensor, name: str, header: onnx.TensorProto) -> bool:
    return (
        header.name == name
        and header.doc_string == tensor.doc_string
        and read_metadata(header.metadata_props)[0] == tensor.metadata
    )
