"""Reading: from the bytes of a model file to a module."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import onnx
from google.protobuf.message import DecodeError

from qir.attributes import Attribute, AttributeKind
from qir.errors import ModelFileError
from qir.graph import Graph, Node, Value
from qir.module import Function, Module
from qir.onnx_io.external import DataFolder
from qir.onnx_io.metadata import read_metadata
from qir.onnx_io.opaque import unmodelled
from qir.onnx_io.shapes import declared_types
from qir.onnx_io.tensors import read_sparse, read_tensor
from qir.onnx_io.type_protos import read_type
from qir.types import Type

DEEPEST = 64
"""Subgraphs may nest this deep."""

Scope = dict[str, Value]


def read_module(data: bytes, folder: Path | None, where: str) -> Module:
    """A module from the bytes of a model.

    Args:
        data: the file's bytes.
        folder: folder of external data, None when the model did not come from a file.
        where: what error messages call the file.

    Raises:
        ModelFileError: the bytes are no ONNX model, or its graph is broken.
    """
    try:
        proto = onnx.ModelProto.FromString(data)
    except DecodeError:
        raise ModelFileError(f"{where}: no ONNX model, or truncated: expected a serialized ModelProto") from None
    try:
        return _Reader(proto, DataFolder(folder), where).module()
    except UnicodeDecodeError as error:
        raise ModelFileError(f"{where}: text that is no UTF-8: {error}") from None


class _Reader:
    def __init__(self, proto: onnx.ModelProto, folder: DataFolder, where: str) -> None:
        self.proto, self.folder, self.where = proto, folder, where

    def module(self) -> Module:
        proto = self.proto
        if not proto.HasField("graph") or not (proto.graph.node or proto.graph.output):
            raise ModelFileError(f"{self.where}: the graph is empty: expected nodes and outputs")
        opsets = {("" if entry.domain == "ai.onnx" else entry.domain): entry.version for entry in proto.opset_import}
        if not opsets:
            raise ModelFileError(f"{self.where}: the model imports no operator set: it is no ONNX model, or damaged")
        types = declared_types(proto)
        module = Module(self.graph(proto.graph, {}, types, 0), opsets=opsets, ir_version=proto.ir_version)
        module.producer_name, module.producer_version = proto.producer_name, proto.producer_version
        module.domain, module.model_version, module.doc_string = proto.domain, proto.model_version, proto.doc_string
        module.metadata, _ = read_metadata(proto.metadata_props)
        module.opaque = unmodelled(proto)
        for function in proto.functions:
            module.add_function(self.function(function))
        return module

    def function(self, proto: onnx.FunctionProto) -> Function:
        scope: Scope = {}
        graph = Graph(proto.name)
        for name in proto.input:
            scope[name] = graph.add_input(Value(name))
        types = {info.name: read_type(info.type) for info in proto.value_info}
        self.nodes(proto.node, graph, scope, types, 0)
        graph.set_outputs([self.find(name, scope) for name in proto.output], proto.output)
        made = Function(proto.domain, proto.name, graph, overload=proto.overload)
        made.attribute_names = tuple(proto.attribute)
        made.attributes = {a.name: self.attribute(a, scope, types, 0) for a in proto.attribute_proto}
        made.opsets = {entry.domain: entry.version for entry in proto.opset_import}
        made.doc_string = proto.doc_string
        made.metadata, _ = read_metadata(proto.metadata_props)
        made.opaque = unmodelled(proto)
        return made

    def graph(self, proto: onnx.GraphProto, outer: Scope, types: dict[str, Type], depth: int) -> Graph:
        if depth > DEEPEST:
            raise ModelFileError(f"{self.where}: graphs nest deeper than {DEEPEST}")
        graph = Graph(proto.name)
        graph.doc_string = proto.doc_string
        graph.metadata, _ = read_metadata(proto.metadata_props)
        graph.opaque = unmodelled(proto)
        scope = dict(outer)
        types = {**types, **{info.name: read_type(info.type) for info in (*proto.value_info, *proto.output)}}
        own: set[str] = set()
        for info in proto.input:
            self.define(info.name, own)
            value = Value(info.name, read_type(info.type))
            value.doc_string = info.doc_string
            scope[info.name] = value
        graph.add_inputs([scope[info.name] for info in proto.input])
        for tensor in (*(read_tensor(t, self.folder) for t in proto.initializer), *(read_sparse(t, self.folder) for t in proto.sparse_initializer)):
            if tensor.name in own:
                scope[tensor.name].constant = tensor
            else:
                self.define(tensor.name, own)
                scope[tensor.name] = graph.add_constant(Value(tensor.name), tensor)
        self.nodes(proto.node, graph, scope, types, depth, own)
        graph.set_outputs([self.find(info.name, scope) for info in proto.output], [info.name for info in proto.output])
        self.describe(proto, scope)
        return graph

    def define(self, name: str, own: set[str]) -> None:
        if not name or name in own:
            raise ModelFileError(f"{self.where}: value {name!r} is defined twice or has no name")
        own.add(name)

    def describe(self, proto: onnx.GraphProto, scope: Scope) -> None:
        for info in (*proto.value_info, *proto.output):
            value = scope.get(info.name)
            if value is not None:
                value.doc_string = value.doc_string or info.doc_string
                value.metadata = value.metadata or read_metadata(info.metadata_props)[0]

    def nodes(
        self, protos: Iterable[onnx.NodeProto], graph: Graph, scope: Scope, types: dict[str, Type], depth: int, own: set[str] | None = None
    ) -> None:
        own = set() if own is None else own
        for proto in protos:
            results = []
            operands = [None if name == "" else self.find(name, scope, proto) for name in proto.input]
            attributes: dict[str, Any] = {a.name: self.attribute(a, scope, types, depth) for a in proto.attribute}
            for name in proto.output:
                if name:
                    self.define(name, own)
                results.append(Value(name, types.get(name)))
            node = Node(proto.op_type, operands, results, domain="" if proto.domain == "ai.onnx" else proto.domain, name=proto.name, attributes=attributes, overload=proto.overload)
            node.doc_string = proto.doc_string
            node.metadata, _ = read_metadata(proto.metadata_props)
            node.opaque = unmodelled(proto)
            graph.insert(node)
            scope.update((value.name, value) for value in results if value.name)

    def find(self, name: str, scope: Scope, node: onnx.NodeProto | None = None) -> Value:
        if name not in scope:
            place = "an output" if node is None else f"node {node.name or node.op_type!r}"
            raise ModelFileError(f"{self.where}: {place} reads {name!r}, which nothing before it defines")
        return scope[name]

    def attribute(self, proto: onnx.AttributeProto, scope: Scope, types: dict[str, Type], depth: int) -> Attribute:
        kind = AttributeKind(proto.type)
        return Attribute(kind, None if proto.ref_attr_name else self.value(proto, kind, scope, types, depth), proto.doc_string, proto.ref_attr_name)

    def value(self, proto: onnx.AttributeProto, kind: AttributeKind, scope: Scope, types: dict[str, Type], depth: int) -> Any:
        if kind is AttributeKind.GRAPH:
            return self.graph(proto.g, scope, types, depth + 1)
        if kind is AttributeKind.GRAPHS:
            return tuple(self.graph(g, scope, types, depth + 1) for g in proto.graphs)
        if kind is AttributeKind.TENSOR:
            return read_tensor(proto.t, self.folder)
        if kind is AttributeKind.TENSORS:
            return tuple(read_tensor(t, self.folder) for t in proto.tensors)
        if kind is AttributeKind.TYPE:
            return read_type(proto.tp)
        if kind is AttributeKind.TYPES:
            return tuple(read_type(t) for t in proto.type_protos)
        if kind is AttributeKind.SPARSE_TENSOR:
            return proto.sparse_tensor.SerializeToString()
        if kind is AttributeKind.SPARSE_TENSORS:
            return tuple(t.SerializeToString() for t in proto.sparse_tensors)
        plain = {AttributeKind.FLOAT: "f", AttributeKind.INT: "i", AttributeKind.STRING: "s"}
        if kind in plain:
            return getattr(proto, plain[kind])
        plural = {AttributeKind.FLOATS: "floats", AttributeKind.INTS: "ints", AttributeKind.STRINGS: "strings"}
        if kind not in plural:
            raise ModelFileError(f"{self.where}: attribute {proto.name!r} has no type")
        return tuple(getattr(proto, plural[kind]))
