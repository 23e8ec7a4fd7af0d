"""Every field of every ONNX message is modelled, or carried as opaque bytes."""

import onnx
import pytest
from onnx import helper

from qir.onnx_io import load, to_proto
from qir.onnx_io.protos.opaque import MODELLED

# Read and written completely where they occur (type_protos.py, tensors.py, metadata.py, graph_reader.py).
INSIDE = {
    "OperatorSetIdProto": {"domain", "version"},
    "StringStringEntryProto": {"key", "value"},
    "TypeProto": {
        "tensor_type",
        "sequence_type",
        "map_type",
        "optional_type",
        "sparse_tensor_type",
        "opaque_type",
        "denotation",
    },
    "TypeProto.Tensor": {"elem_type", "shape"},
    "TypeProto.Sequence": {"elem_type"},
    "TypeProto.Optional": {"elem_type"},
    "TensorShapeProto": {"dim"},
    "TensorShapeProto.Dimension": {"dim_value", "dim_param", "denotation"},
}
# Carried whole, as bytes or as the message itself.
WHOLE = {
    "IntIntListEntryProto", "NodeDeviceConfigurationProto", "ShardingSpecProto", "ShardedDimProto",
    "SimpleShardedDimProto",
    "TrainingInfoProto", "DeviceConfigurationProto", "TensorAnnotation", "TensorProto.Segment", "SparseTensorProto",
    "TypeProto.Map", "TypeProto.SparseTensor", "TypeProto.Opaque",
}  # fmt: skip


def _kinds(messages, prefix=""):
    for name, kind in messages.items():
        yield prefix + name, kind
        yield from _kinds({n.name: n for n in kind.nested_types}, prefix + name + ".")


def test_every_message_and_field_is_accounted_for():
    for name, kind in _kinds(onnx.ModelProto.DESCRIPTOR.file.message_types_by_name):
        fields = {field.name for field in kind.fields}
        if name in MODELLED:
            assert fields >= MODELLED[name], name
        elif name in INSIDE:
            assert fields == INSIDE[name], f"{name}: read or carry the new fields {fields - INSIDE[name]}"
        else:
            assert name in WHOLE, f"{name} is neither modelled nor carried"


def _fill(message, depth=0):
    """Give every field that is not set a value."""
    for field in message.DESCRIPTOR.fields:
        if field.message_type is not None:
            if (
                not field.is_repeated
                and not message.HasField(field.name)
                and depth < 3
                and field.containing_oneof is None
            ):
                getattr(message, field.name).SetInParent()
            if field.is_repeated and not getattr(message, field.name) and depth < 3:
                _fill(getattr(message, field.name).add(), depth + 1)
        elif field.is_repeated:
            if not getattr(message, field.name):
                getattr(message, field.name).append("text" if field.cpp_type == field.CPPTYPE_STRING else 1)
        elif not message.HasField(field.name) and field.containing_oneof is None:
            setattr(message, field.name, "text" if field.cpp_type == field.CPPTYPE_STRING else 1)


def _model():
    x = helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, ["N", 3])
    y = helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, ["N", 3])
    weight = onnx.TensorProto(dims=[3], data_type=1, name="w", raw_data=b"\0" * 12)
    node = helper.make_node("Add", ["x", "w"], ["y"], name="add")
    return helper.make_model(
        helper.make_graph([node], "g", [x], [y], [weight]), opset_imports=[helper.make_opsetid("", 21)]
    )


def _unmodelled():
    owners = {"ModelProto": lambda m: m, "GraphProto": lambda m: m.graph, "NodeProto": lambda m: m.graph.node[0]}
    for name, owner in owners.items():
        kind = dict(_kinds(onnx.ModelProto.DESCRIPTOR.file.message_types_by_name))[name]
        for field in kind.fields:
            if field.name not in MODELLED[name]:
                yield pytest.param(owner, field.name, id=f"{name}.{field.name}")


@pytest.mark.parametrize(("owner", "field"), _unmodelled())
def test_unmodelled_fields_come_back(owner, field):
    proto = _model()
    _fill(getattr(owner(proto), field).add(), 1)
    assert getattr(owner(to_proto(load(proto.SerializeToString()))), field) == getattr(owner(proto), field)


@pytest.mark.parametrize(
    "owner",
    [
        lambda m: m,
        lambda m: m.graph,
        lambda m: m.graph.node[0],
        lambda m: m.graph.input[0],
        lambda m: m.graph.output[0],
        lambda m: m.graph.initializer[0],
        lambda m: m.functions[0],
        lambda m: m.functions[0].node[0],
        lambda m: m.graph.node[0].attribute[0],
    ],
    ids=["model", "graph", "node", "input", "output", "tensor", "function", "function node", "attribute"],
)
def test_fields_of_the_future_come_back(owner):
    proto = _model()
    proto.functions.append(
        helper.make_function(
            "local", "F", ["a"], ["b"], [helper.make_node("Relu", ["a"], ["b"])], [helper.make_opsetid("", 21)]
        )
    )
    proto.graph.node[0].attribute.append(helper.make_attribute("later", 3))
    future = b"\xfa\x3f\x05hello"  # field 1023, length-delimited
    message = owner(proto)
    message.MergeFromString(future)
    assert future in message.SerializeToString()
    assert future in owner(to_proto(load(proto.SerializeToString()))).SerializeToString()


@pytest.mark.named_nodes
def test_documentation_and_metadata_come_back_at_every_level():
    proto = _model()
    proto.graph.node[0].attribute.append(helper.make_attribute("axis", 3, doc_string="why"))
    proto.graph.value_info.append(helper.make_tensor_value_info("w", 1, [3]))
    for message in (
        proto,
        proto.graph,
        proto.graph.node[0],
        proto.graph.input[0],
        proto.graph.value_info[0],
        proto.graph.output[0],
        proto.graph.initializer[0],
    ):
        message.doc_string = "documentation"
        message.metadata_props.add(key="key", value="value")
        message.metadata_props.add(key="second", value="")
    proto.graph.input[0].type.denotation = "IMAGE"
    proto.graph.input[0].type.tensor_type.shape.dim[0].denotation = "DATA_BATCH"
    proto.producer_name, proto.producer_version, proto.domain, proto.model_version = "p", "1", "d", 7
    proto.opset_import[0].ClearField("domain")
    assert to_proto(load(proto.SerializeToString())) == proto
