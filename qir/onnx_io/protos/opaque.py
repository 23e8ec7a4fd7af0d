"""Which protobuf fields qir models; all others, unknown ones included, are carried as bytes on their owner.

`MODELLED` is the whole truth: a field that a newer ONNX adds is not in it, so it is carried without a change here.
"""

from __future__ import annotations

from functools import cache
from typing import Any

from google.protobuf.message import Message
from google.protobuf.unknown_fields import UnknownFieldSet

MODELLED: dict[str, frozenset[str]] = {
    name: frozenset(fields.split())
    for name, fields in {
        "ModelProto": "ir_version opset_import producer_name producer_version domain model_version doc_string graph "
        "metadata_props functions",
        "GraphProto": "node name initializer sparse_initializer doc_string input output value_info metadata_props",
        "FunctionProto": "name input output attribute attribute_proto node doc_string opset_import domain overload "
        "value_info metadata_props",
        "NodeProto": "input output name op_type domain overload attribute doc_string metadata_props",
        "AttributeProto": "name ref_attr_name doc_string type f i s t g sparse_tensor tp floats ints strings tensors "
        "graphs sparse_tensors type_protos",
        "ValueInfoProto": "name type doc_string metadata_props",
        "TensorProto": "dims data_type float_data int32_data string_data int64_data name doc_string raw_data "
        "external_data data_location double_data uint64_data metadata_props",
    }.items()
}


@cache
def _unmodelled_fields(descriptor: Any) -> tuple[str, ...]:
    modelled = MODELLED[descriptor.name]
    return tuple(f.name for f in descriptor.fields if f.name not in modelled)


def _is_set(message: Any, name: str) -> bool:
    value = getattr(message, name)
    return message.HasField(name) if isinstance(value, Message) else bool(value)


def has_unknown_fields(kind: type[Message], data: bytes) -> bool:
    """Return whether a serialized message can hold fields, at any depth, that this version of ONNX does not know."""
    message = kind.FromString(data)
    message.DiscardUnknownFields()
    return bool(message.ByteSize() != len(data))


def has_unmodelled_fields(kind: type[Message]) -> bool:
    """Return whether this version of ONNX knows fields of such messages that qir does not model."""
    return bool(_unmodelled_fields(kind.DESCRIPTOR))


def unmodelled(message: Any, *, unknown: bool = True) -> bytes:
    """Return the fields of a message that qir does not model, as a serialized message of the same kind; usually empty.

    Args:
        message: any message of `MODELLED`.
        unknown: whether it can have unknown fields; False where `has_unknown_fields` denied it.
    """
    for name in _unmodelled_fields(message.DESCRIPTOR):
        if _is_set(message, name):
            break
    else:
        if not unknown or not len(UnknownFieldSet(message)):
            return b""
    rest = type(message)()
    rest.CopyFrom(message)
    for name in MODELLED[message.DESCRIPTOR.name]:
        rest.ClearField(name)
    raw: bytes = rest.SerializeToString()
    return raw
