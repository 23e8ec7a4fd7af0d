"""Types to and from `TypeProto`."""

from __future__ import annotations

import onnx

from qir.errors import ModelFileError, TypeVerifyError
from qir.onnx_io.protos.metadata import text
from qir.types import (
    Dim,
    DType,
    OpaqueType,
    OptionalType,
    SequenceType,
    TensorType,
    Type,
    UnknownType,
    tensor_type,
)

UNKNOWN = UnknownType()


def _read_dim(dim: onnx.TensorShapeProto.Dimension) -> Dim:
    """Return a negative size is how some exporters (Paddle) write an unknown one."""
    if dim.HasField("dim_value"):
        return int(dim.dim_value) if dim.dim_value >= 0 else None
    return text(dim.dim_param) or None


def read_type(proto: onnx.TypeProto) -> Type:
    """Return the type that a `TypeProto` declares; kinds that qir does not model become `OpaqueType`.

    Raises:
        ModelFileError: an element type is unknown or a dimension is negative.
    """
    kind = proto.WhichOneof("value")
    if kind is None:
        return UNKNOWN
    if kind == "tensor_type":
        tensor = proto.tensor_type
        shape = tuple(_read_dim(d) for d in tensor.shape.dim) if tensor.HasField("shape") else None
        try:
            return tensor_type(DType.from_onnx(tensor.elem_type), shape)
        except TypeVerifyError as error:
            raise ModelFileError(f"{error}; leave unknown dimensions out of the file or name them") from None
    if kind == "sequence_type":
        return SequenceType(read_type(proto.sequence_type.elem_type))
    if kind == "optional_type":
        return OptionalType(read_type(proto.optional_type.elem_type))
    return OpaqueType(proto.SerializeToString())


def write_type(type: Type, proto: onnx.TypeProto) -> None:  # noqa: A002
    """Fill a `TypeProto`; a quantized tensor is written as the float tensor that it is when it is executed."""
    if isinstance(type, TensorType):
        proto.tensor_type.elem_type = type.dtype.onnx_code
        if type.shape is None:
            return
        proto.tensor_type.shape.SetInParent()
        for dim in type.shape:
            entry = proto.tensor_type.shape.dim.add()
            if isinstance(dim, int):
                entry.dim_value = dim
            elif dim is not None:
                entry.dim_param = dim
    elif isinstance(type, SequenceType):
        proto.sequence_type.elem_type.SetInParent()
        write_type(type.element, proto.sequence_type.elem_type)
    elif isinstance(type, OptionalType):
        proto.optional_type.elem_type.SetInParent()
        write_type(type.element, proto.optional_type.elem_type)
    elif isinstance(type, OpaqueType):
        proto.MergeFromString(type.raw)


class TypeReader:
    """Reads types, each distinct one once."""

    def __init__(self) -> None:
        self._known: dict[bytes, tuple[Type, bool]] = {}

    def read(self, proto: onnx.TypeProto) -> tuple[Type, bool]:
        """Return the type, and whether it holds all that the message says (no denotations, no unknown fields).

        Raises:
            ModelFileError: an element type is unknown or a dimension is negative.
        """
        raw = proto.SerializeToString()
        known = self._known.get(raw)
        if known is None:
            made = read_type(proto)
            again = onnx.TypeProto()
            write_type(made, again)
            known = self._known[raw] = (made, again == proto)
        return known

    def read_exact(self, proto: onnx.TypeProto) -> Type:
        """Return the type, as `OpaqueType` when `Type` cannot hold all that the message says."""
        made, exact = self.read(proto)
        return made if exact else OpaqueType(proto.SerializeToString())
