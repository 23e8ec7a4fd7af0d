"""Writing: from a module to a model file, atomically."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import onnx

from qir.attributes import Attribute, AttributeKind
from qir.graph import Graph, Node, Value
from qir.module import Function, Module
from qir.onnx_io.metadata import write_metadata
from qir.onnx_io.tensors import write_tensor
from qir.onnx_io.type_protos import write_type
from qir.types import UnknownType


def to_proto(module: Module) -> onnx.ModelProto:
    """The protobuf message of a module, weights inside; the module is not changed."""
    proto = onnx.ModelProto()
    proto.MergeFromString(module.opaque)
    proto.ir_version = module.ir_version
    for field in ("producer_name", "producer_version", "domain", "model_version", "doc_string"):
        if getattr(module, field):
            setattr(proto, field, getattr(module, field))
    opsets = dict(module.opsets)
    if any(node.domain == "qir" for graph in module.graphs for node in graph.walk()):
        opsets.setdefault("qir", 1)
    for domain, version in opsets.items():
        proto.opset_import.append(onnx.OperatorSetIdProto(domain=domain, version=version))
    write_metadata(module.metadata, proto.metadata_props)
    _graph(module.graph, proto.graph)
    for function in module.functions.values():
        _function(function, proto.functions.add())
    return proto


def _graph(graph: Graph, proto: onnx.GraphProto) -> None:
    proto.MergeFromString(graph.opaque)
    proto.name = graph.name
    if graph.doc_string:
        proto.doc_string = graph.doc_string
    write_metadata(graph.metadata, proto.metadata_props)
    names, copies = _output_names(graph)
    for value in graph.inputs:
        _info(value, value.name, proto.input.add())
        if value.constant is not None:
            _tensor(value, proto.initializer.add())
    for value in graph.constants:
        _tensor(value, proto.initializer.add())
    _nodes(graph, proto.node, names)
    for source, name in copies:
        proto.node.append(onnx.NodeProto(op_type="Identity", input=[names.get(source, source.name)], output=[name]))
    for output, name in zip(graph.outputs, graph.output_names, strict=True):
        if output is not None:
            _info(output, name, proto.output.add())
    outputs = set(graph.outputs)
    for node in graph:
        for value in node.results:
            if value.name and value not in outputs and not isinstance(value.type, UnknownType):
                _info(value, names.get(value, value.name), proto.value_info.add())


def _output_names(graph: Graph) -> tuple[dict[Value, str], list[tuple[Value, str]]]:
    """Results that are written under an output's name, and outputs that need an Identity."""
    names: dict[Value, str] = {}
    copies: list[tuple[Value, str]] = []
    for value, name in zip(graph.outputs, graph.output_names, strict=True):
        if value is None or (value.name == name and value not in names):
            if value is not None:
                names[value] = name
            continue
        own = value.producer is not None and value.producer.graph is graph
        if own and value not in names:
            names[value] = name
        elif names.get(value) != name:
            copies.append((value, name))
    _make_room(graph, names, {name for name in graph.output_names if name})
    return names, copies


def _make_room(graph: Graph, names: dict[Value, str], taken: set[str]) -> None:
    """Values that are called as an output that they are not are written under another name."""
    for node in graph:
        for value in node.results:
            if value.name in taken and value not in names:
                name, count = f"{value.name}.inner", 1
                while name in graph.clock.names:
                    count += 1
                    name = f"{value.name}.inner{count}"
                names[value] = name


def _nodes(graph: Graph, protos: Any, names: dict[Value, str]) -> None:
    for node in graph:
        proto = protos.add()
        proto.MergeFromString(node.opaque)
        proto.op_type = node.op
        for field in ("name", "domain", "overload", "doc_string"):
            if getattr(node, field):
                setattr(proto, field, getattr(node, field))
        proto.input.extend("" if v is None else names.get(v, v.name) for v in node.inputs)
        proto.output.extend(names.get(v, v.name) for v in node.results)
        write_metadata(node.metadata, proto.metadata_props)
        for name, attribute in node.attributes.items():
            _attribute(name, attribute, proto.attribute.add())


def _function(function: Function, proto: onnx.FunctionProto) -> None:
    proto.MergeFromString(function.opaque)
    proto.name, proto.domain = function.name, function.domain
    if function.overload:
        proto.overload = function.overload
    if function.doc_string:
        proto.doc_string = function.doc_string
    proto.input.extend(value.name for value in function.graph.inputs)
    proto.attribute.extend(function.attribute_names)
    for name, attribute in function.attributes.items():
        _attribute(name, attribute, proto.attribute_proto.add())
    for domain, version in function.opsets.items():
        proto.opset_import.append(onnx.OperatorSetIdProto(domain=domain, version=version))
    write_metadata(function.metadata, proto.metadata_props)
    names, copies = _output_names(function.graph)
    _nodes(function.graph, proto.node, names)
    for source, name in copies:
        proto.node.append(onnx.NodeProto(op_type="Identity", input=[names.get(source, source.name)], output=[name]))
    proto.output.extend(function.graph.output_names)


def _info(value: Value, name: str, proto: onnx.ValueInfoProto) -> None:
    proto.name = name
    if not isinstance(value.type, UnknownType):
        write_type(value.type, proto.type)
    if value.doc_string:
        proto.doc_string = value.doc_string
    write_metadata(value.metadata, proto.metadata_props)


def _tensor(value: Value, proto: onnx.TensorProto) -> None:
    assert value.constant is not None  # noqa: S101 - the caller selects constants
    _merge(proto, write_tensor(value.constant, value.name))


def _merge(proto: onnx.TensorProto, pieces: Iterable[Any]) -> None:
    proto.MergeFromString(b"".join(bytes(piece) for piece in pieces))


def _attribute(name: str, attribute: Attribute, proto: onnx.AttributeProto) -> None:
    proto.name, proto.type = name, int(attribute.kind)
    if attribute.doc_string:
        proto.doc_string = attribute.doc_string
    if attribute.reference:
        proto.ref_attr_name = attribute.reference
        return
    kind, value = attribute.kind, attribute.value
    single = {AttributeKind.FLOAT: "f", AttributeKind.INT: "i", AttributeKind.STRING: "s"}
    plural = {AttributeKind.FLOATS: "floats", AttributeKind.INTS: "ints", AttributeKind.STRINGS: "strings"}
    if kind in single:
        setattr(proto, single[kind], value)
    elif kind in plural:
        getattr(proto, plural[kind]).extend(value)
    elif kind is AttributeKind.TENSOR:
        _merge(proto.t, write_tensor(value, value.name))
    elif kind is AttributeKind.TENSORS:
        for tensor in value:
            _merge(proto.tensors.add(), write_tensor(tensor, tensor.name))
    elif kind is AttributeKind.GRAPH:
        _graph(value, proto.g)
    elif kind is AttributeKind.GRAPHS:
        for graph in value:
            _graph(graph, proto.graphs.add())
    elif kind is AttributeKind.TYPE:
        write_type(value, proto.tp)
    elif kind is AttributeKind.TYPES:
        for type_ in value:
            write_type(type_, proto.type_protos.add())
    elif kind is AttributeKind.SPARSE_TENSOR:
        proto.sparse_tensor.MergeFromString(value)
    else:
        for raw in value:
            proto.sparse_tensors.add().MergeFromString(raw)


