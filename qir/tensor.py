"""Constant tensors: numpy arrays that may still lie in a file.

A `Tensor` knows its element type and shape without reading its bytes. Arrays are read-only: a constant is replaced,
never written into. Element types that numpy lacks use `ml_dtypes` (bfloat16, float8, int4, …).
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt

from qir.errors import ModelFileError
from qir.types import DType, TensorType, tensor_type

Array = npt.NDArray[Any]

_ML_DTYPES = {
    DType.BFLOAT16: "bfloat16",
    DType.FLOAT8E4M3FN: "float8_e4m3fn",
    DType.FLOAT8E4M3FNUZ: "float8_e4m3fnuz",
    DType.FLOAT8E5M2: "float8_e5m2",
    DType.FLOAT8E5M2FNUZ: "float8_e5m2fnuz",
    DType.FLOAT8E8M0: "float8_e8m0fnu",
    DType.UINT4: "uint4",
    DType.INT4: "int4",
    DType.FLOAT4E2M1: "float4_e2m1fn",
    DType.UINT2: "uint2",
    DType.INT2: "int2",
}


@cache
def numpy_dtype(dtype: DType) -> np.dtype[Any]:
    """Return the numpy element type that holds a qir element type; strings are object arrays."""
    if dtype is DType.STRING:
        return np.dtype(object)
    if dtype in _ML_DTYPES:
        import ml_dtypes

        found: np.dtype[Any] = np.dtype(getattr(ml_dtypes, _ML_DTYPES[dtype]))
        return found
    return np.dtype(dtype.label)


@cache
def dtype_of(numpy_type: np.dtype[Any]) -> DType:
    """Return the qir element type of a numpy element type; `ModelFileError` when ONNX has none."""
    if numpy_type.kind in "OSU":
        return DType.STRING
    for dtype, label in _ML_DTYPES.items():
        if numpy_type.name == label:
            return dtype
    for dtype in DType:
        if dtype.label == numpy_type.name:
            return dtype
    raise ModelFileError(f"numpy type {numpy_type} has no ONNX element type; convert the array first")


class Tensor:
    """A constant: element type, shape, and the array or a function that reads it when it is first needed.

    Attributes:
        dtype: element type.
        shape: dimensions.
        name: name inside the file (an attribute tensor's name); a constant value's name lives on the `Value`.
        doc_string: ONNX documentation text.
        metadata: serialized key/value pairs (`metadata_props`).
        opaque: protobuf fields of the tensor that qir does not model, as bytes.
        source: what the reader keeps so that an untouched tensor is written back unread (see `qir.onnx_io`).
    """

    __slots__ = ("_array", "_read", "doc_string", "dtype", "metadata", "name", "opaque", "shape", "source")

    def __init__(
        self,
        dtype: DType,
        shape: tuple[int, ...],
        read: Callable[[], Array] | None = None,
        *,
        name: str = "",
        source: Any = None,
    ) -> None:
        self.dtype = dtype
        self.shape = shape
        self.name = name
        self.doc_string = ""
        self.metadata: dict[str, str] = {}
        self.opaque = b""
        self.source = source
        self._array: Array | None = None
        self._read = read

    @staticmethod
    def of(array: npt.ArrayLike, *, dtype: DType | None = None, name: str = "") -> Tensor:
        """Make a tensor from anything numpy takes; the array is copied unless it is read-only already."""
        values = np.asarray(array)
        if dtype is not None:
            values = values.astype(numpy_dtype(dtype), copy=False)
        if values.flags.writeable:
            values = values.copy()
            values.flags.writeable = False
        tensor = Tensor(dtype or dtype_of(values.dtype), values.shape, name=name)
        tensor._array = values
        return tensor

    def numpy(self) -> Array:
        """Return the values, read on first use: read-only array of `shape`; `ModelFileError` when the file is short."""
        if self._array is None:
            if self._read is None:
                raise ModelFileError(f"tensor {self.name!r} has neither values nor a file to read them from")
            array = np.asarray(self._read())  # `onnx` gives scalars of 2 and 4 bits as numpy scalars
            if tuple(array.shape) != self.shape:
                raise ModelFileError(f"tensor {self.name!r}: shape {self.shape} but values of shape {array.shape}")
            array.flags.writeable = False
            self._array = array
        return self._array

    @property
    def sparse(self) -> bytes | None:
        """The serialized `SparseTensorProto` that an untouched constant came as, or None."""
        return getattr(self.source, "sparse_bytes", None)

    def release(self) -> None:
        """Say that the values are not needed soon: pages of a mapped file leave memory until they are read again."""
        release = getattr(self.source, "release", None)
        if release is not None:
            release()

    @property
    def is_read(self) -> bool:
        """Whether the values are in memory."""
        return self._array is not None

    @property
    def size(self) -> int:
        """Number of elements."""
        return math.prod(self.shape)

    @property
    def type(self) -> TensorType:
        """The tensor's type."""
        return tensor_type(self.dtype, self.shape)

    def digest(self) -> str:
        """SHA-256 of element type, shape and values, as hexadecimal text."""
        array = np.ascontiguousarray(self.numpy())
        found = hashlib.sha256(f"{self.dtype}{list(self.shape)}".encode())
        found.update(repr(array.tolist()).encode() if array.dtype.hasobject else array.reshape(-1).view(np.uint8).data)
        self.release()
        return found.hexdigest()

    def __repr__(self) -> str:
        return f"Tensor({self.type}{'' if self.is_read else ', unread'})"
