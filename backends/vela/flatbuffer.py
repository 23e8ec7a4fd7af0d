"""TensorFlow Lite's file format (schema version 3), as far as int8 networks need it, written with FlatBuffers.

A table is a `Table`: the name of its kind and the fields that are set. `SCHEMA` holds, for each kind, every field's
slot and type as the published schema (tensorflow/compiler/mlir/lite/schema/schema.fbs) numbers them.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from qir.errors import MissingExtraError

IDENTIFIER = b"TFL3"
_ALIGNMENT = 16
"""Bytes to which contents of buffers are aligned."""

SCHEMA: dict[str, dict[str, tuple[int, str]]] = {
    "Model": {
        "version": (0, "uint32"),
        "operator_codes": (1, "tables"),
        "subgraphs": (2, "tables"),
        "description": (3, "string"),
        "buffers": (4, "tables"),
    },
    "OperatorCode": {"deprecated_builtin_code": (0, "int8"), "version": (2, "int32"), "builtin_code": (3, "int32")},
    "SubGraph": {
        "tensors": (0, "tables"),
        "inputs": (1, "int32s"),
        "outputs": (2, "int32s"),
        "operators": (3, "tables"),
        "name": (4, "string"),
    },
    "Tensor": {
        "shape": (0, "int32s"),
        "type": (1, "int8"),
        "buffer": (2, "uint32"),
        "name": (3, "string"),
        "quantization": (4, "table"),
    },
    "QuantizationParameters": {
        "scale": (2, "float32s"),
        "zero_point": (3, "int64s"),
        "quantized_dimension": (6, "int32"),
    },
    "Operator": {
        "opcode_index": (0, "uint32"),
        "inputs": (1, "int32s"),
        "outputs": (2, "int32s"),
        "builtin_options_type": (3, "uint8"),
        "builtin_options": (4, "table"),
    },
    "Buffer": {"data": (0, "bytes")},
    "Conv2DOptions": {
        "padding": (0, "int8"),
        "stride_w": (1, "int32"),
        "stride_h": (2, "int32"),
        "fused_activation_function": (3, "int8"),
        "dilation_w_factor": (4, "int32"),
        "dilation_h_factor": (5, "int32"),
    },
    "DepthwiseConv2DOptions": {
        "padding": (0, "int8"),
        "stride_w": (1, "int32"),
        "stride_h": (2, "int32"),
        "depth_multiplier": (3, "int32"),
        "fused_activation_function": (4, "int8"),
        "dilation_w_factor": (5, "int32"),
        "dilation_h_factor": (6, "int32"),
    },
    "Pool2DOptions": {
        "padding": (0, "int8"),
        "stride_w": (1, "int32"),
        "stride_h": (2, "int32"),
        "filter_width": (3, "int32"),
        "filter_height": (4, "int32"),
    },
    "FullyConnectedOptions": {"fused_activation_function": (0, "int8"), "keep_num_dims": (2, "bool")},
    "SoftmaxOptions": {"beta": (0, "float32")},
    "ConcatenationOptions": {"axis": (0, "int32")},
    "AddOptions": {"fused_activation_function": (0, "int8")},
    "MulOptions": {"fused_activation_function": (0, "int8")},
    "SubOptions": {"fused_activation_function": (0, "int8")},
    "ReshapeOptions": {"new_shape": (0, "int32s")},
    "ReducerOptions": {"keep_dims": (0, "bool")},
    "ResizeNearestNeighborOptions": {"align_corners": (0, "bool"), "half_pixel_centers": (1, "bool")},
    "PadOptions": {},
    "PadV2Options": {},
    "TransposeOptions": {},
    "QuantizeOptions": {},
    "HardSwishOptions": {},
}
"""Kind of table → field → (slot, type). The fields with a default other than zero are always set."""

OPTIONS = {
    "Conv2DOptions": 1,
    "DepthwiseConv2DOptions": 2,
    "Pool2DOptions": 5,
    "FullyConnectedOptions": 8,
    "SoftmaxOptions": 9,
    "ConcatenationOptions": 10,
    "AddOptions": 11,
    "ReshapeOptions": 17,
    "MulOptions": 21,
    "PadOptions": 22,
    "TransposeOptions": 26,
    "ReducerOptions": 27,
    "SubOptions": 28,
    "PadV2Options": 43,
    "ResizeNearestNeighborOptions": 74,
    "QuantizeOptions": 89,
    "HardSwishOptions": 91,
}
"""Members of the union `BuiltinOptions`."""

_VECTORS = {"int32s": np.int32, "int64s": np.int64, "float32s": np.float32, "bytes": np.uint8}
_SCALARS = {
    "bool": "Bool",
    "int8": "Int8",
    "uint8": "Uint8",
    "int32": "Int32",
    "uint32": "Uint32",
    "float32": "Float32",
}


@dataclass(frozen=True)
class Table:
    """A table that is not written yet.

    Attributes:
        kind: key of `SCHEMA`.
        fields: values of the fields that are set; numbers, strings, arrays, tables or lists of tables.
    """

    kind: str
    fields: dict[str, Any] = field(default_factory=dict)


def serialize(root: Table) -> bytes:
    """Return the bytes of a file.

    Raises:
        MissingExtraError: the package `flatbuffers` is not installed.
    """
    try:
        import flatbuffers
    except ImportError as error:
        raise MissingExtraError("flatbuffers", "vela") from error
    builder = flatbuffers.Builder(1 << 16)
    builder.Finish(_write(builder, root), file_identifier=IDENTIFIER)
    return bytes(builder.Output())


def _write(builder: Any, table: Table) -> int:
    """Write what a table refers to, then the table: its offset."""
    slots = SCHEMA[table.kind]
    offsets = {
        name: _reference(builder, slots[name][1], value)
        for name, value in table.fields.items()
        if slots[name][1] not in _SCALARS
    }
    builder.StartObject(max((slot for slot, _ in slots.values()), default=-1) + 1)
    for name, value in table.fields.items():
        slot, kind = slots[name]
        if name in offsets:
            builder.PrependUOffsetTRelativeSlot(slot, offsets[name], 0)
        else:
            getattr(builder, f"Prepend{_SCALARS[kind]}Slot")(slot, value, None)
    return int(builder.EndObject())


def _reference(builder: Any, kind: str, value: Any) -> int:
    if kind == "string":
        return int(builder.CreateString(value))
    if kind == "table":
        return _write(builder, value)
    if kind == "tables":
        written = [_write(builder, entry) for entry in value]
        builder.StartVector(4, len(written), 4)
        for offset in reversed(written):
            builder.PrependUOffsetTRelative(offset)
        return int(builder.EndVector())
    array = np.ascontiguousarray(value, _VECTORS[kind])
    if kind == "bytes":
        builder.StartVector(1, array.size, _ALIGNMENT)
        builder.head = builder.head - array.size
        builder.Bytes[builder.head : builder.head + array.size] = array.tobytes()
        return int(builder.EndVector())
    return int(builder.CreateNumpyVector(array.reshape(-1)))
