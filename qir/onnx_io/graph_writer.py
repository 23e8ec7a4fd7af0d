"""Graphs and functions to their messages; the graph is not touched."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import onnx

from qir.errors import ModelFileError
from qir.graph import Graph
from qir.module import Function
from qir.node import Node
from qir.onnx_io.graph_reader import DECLARED, INITIALIZERS, UNTYPED
from qir.onnx_io.protos.attributes import write_attribute
from qir.onnx_io.protos.metadata import write_metadata
from qir.onnx_io.protos.tensors import StoredTensor, write_tensor
from qir.onnx_io.protos.types import read_type, write_type
from qir.tensor import Tensor
from qir.types import UnknownType
from qir.value import Value

NamedTensor = tuple[str, Tensor]


class _Names:
    """Names under which the values of one graph are written."""

    __slots__ = ("_outer", "_taken", "_written", "where")

    def __init__(self, graph: Graph, outer: _Names | None, where: str) -> None:
        self._outer = outer
        self.where = where
        self._written: dict[Value, str] = {}
        self._taken: dict[str, Value] = {}
        preferred = written_outputs(graph)
        reserved = {name for name in graph.output_names if name}
        for value in graph.values():
            name = preferred.get(value)
            if name is None:
                name = value.name
                if name in reserved or (not name and value._uses):
                    name = self._free(graph, name or "value", reserved)
            if not name:
                continue
            if self._taken.setdefault(name, value) is not value:
                raise ModelFileError(f"{where}: two values are named {name!r}: rename one before saving")
            self._written[value] = name

    @staticmethod
    def _free(graph: Graph, base: str, reserved: set[str]) -> str:
        used = graph.clock.names | reserved
        count = 1
        while f"{base}.inner{count}" in used:
            count += 1
        return f"{base}.inner{count}"

    def of(self, value: Value) -> str:
        """Return the written name of an operand.

        Raises:
            ModelFileError: the value is not visible here, or hidden by one of the same name.
        """
        name = self._written.get(value)
        if name is not None:
            return name
        if self._outer is None:
            raise ModelFileError(f"{self.where}: value {value.name!r} is used but stands in no graph around its user")
        name = self._outer.of(value)
        if name in self._taken:
            raise ModelFileError(f"{self.where}: value {name!r} hides a value outside that is used here: rename one")
        return name

    def result(self, value: Value) -> str:
        """Return the written name of a result, empty when it is left out."""
        return self._written.get(value, "")


def written_outputs(graph: Graph) -> dict[Value, str]:
    """Return results that are written under the name of an output: no Identity is needed for them."""
    pairs = [(v, name) for v, name in zip(graph.outputs, graph.output_names, strict=False) if v is not None and name]
    names = {value: name for value, name in pairs if value.name == name}
    for value, name in pairs:
        if value not in names and value.producer is not None and value.producer.graph is graph:
            names[value] = name
    return names


class GraphWriter:
    """Writes the graphs and functions of one module."""

    def __init__(self) -> None:
        self._names: _Names | None = None

    def write_graph(self, graph: Graph, proto: onnx.GraphProto) -> list[NamedTensor]:
        """Fill a message with everything but the constants; these are returned with their names.

        Raises:
            ModelFileError: names clash, or a value is used outside the graph that owns it.
        """
        kept = _merge_opaque(proto, graph.opaque)
        proto.name = graph.name
        if graph.doc_string:
            proto.doc_string = graph.doc_string
        write_metadata(graph.metadata, proto.metadata_props)
        outer = self._names
        names = self._names = _Names(graph, outer, f"graph {graph.name!r}")
        try:
            for value in graph.inputs:
                _write_info(value, names.of(value), proto.input.add())
            tensors = _constants(graph, names, proto)
            for node in graph:
                self._write_node(node, proto.node.add(), names)
            for output, name in self._outputs(graph, proto.node, names):
                info = proto.output.add()
                if name in kept:
                    info.CopyFrom(kept[name])
                elif output is None:
                    info.name = name
                else:
                    _write_info(output, name, info)
                    if outer is None and not info.HasField("type") and name not in graph.meta.get(UNTYPED, ()):
                        write_type(output.type, info.type)  # a network's outputs have types, where its file had them
            outputs = {value for value in graph.outputs if value is not None}
            _write_infos(_described(graph, names, outputs), names, proto.value_info)
        finally:
            self._names = outer
        return tensors

    def write_function(self, function: Function, proto: onnx.FunctionProto) -> None:
        """Fill a message.

        Raises:
            ModelFileError: as `write_graph`; or the function's graph holds constants, which ONNX does not allow.
        """
        graph = function.graph
        proto.MergeFromString(function.opaque)
        proto.name, proto.domain = function.name, function.domain
        if function.overload:
            proto.overload = function.overload
        if function.doc_string:
            proto.doc_string = function.doc_string
        proto.attribute.extend(function.attribute_names)
        for name, attribute in function.attributes.items():
            write_attribute(name, attribute, proto.attribute_proto.add(), self._write_subgraph)
        write_opsets(function.opsets, proto.opset_import)
        write_metadata(function.metadata, proto.metadata_props)
        names = self._names = _Names(graph, None, f"function {function.domain}.{function.name}")
        try:
            proto.input.extend(names.of(value) for value in graph.inputs)
            for value in graph.constants:
                node = proto.node.add(op_type="Constant", output=[names.of(value)])
                attribute = node.attribute.add(name="value", type=onnx.AttributeProto.TENSOR)
                attribute.t.MergeFromString(b"".join(write_tensor(_tensor_of(value), value.name)))
            for each in graph:
                self._write_node(each, proto.node.add(), names)
            proto.output.extend(name for _, name in self._outputs(graph, proto.node, names))
            _write_infos(_described(graph, names, set(), inputs=True), names, proto.value_info)
        finally:
            self._names = None

    def _write_subgraph(self, graph: Graph, proto: onnx.GraphProto) -> None:
        for name, tensor in self.write_graph(graph, proto):
            proto.initializer.add().MergeFromString(b"".join(write_tensor(tensor, name)))

    def _write_node(self, node: Node, proto: onnx.NodeProto, names: _Names) -> None:
        if node.opaque:
            proto.MergeFromString(node.opaque)
        proto.input.extend("" if value is None else names.of(value) for value in node.inputs)
        proto.output.extend(names.result(value) for value in node.results)
        proto.op_type = node.op
        if node.name:
            proto.name = node.name
        if node.domain:
            proto.domain = node.domain
        if node.overload:
            proto.overload = node.overload
        if node.doc_string:
            proto.doc_string = node.doc_string
        if node.metadata:
            write_metadata(node.metadata, proto.metadata_props)
        for name, attribute in node.attributes.items():
            write_attribute(name, attribute, proto.attribute.add(), self._write_subgraph)

    @staticmethod
    def _outputs(graph: Graph, nodes: Any, names: _Names) -> Iterable[tuple[Value | None, str]]:
        """Yield each output with its name in the file.

        Identity nodes are added for values that already have another.
        """
        written = graph.output_names
        for index, value in enumerate(graph.outputs):
            if value is None:
                yield None, written[index] if index < len(written) else ""
                continue
            own = names.of(value)
            name = written[index] if index < len(written) and written[index] else own
            if name != own:
                nodes.add(op_type="Identity", input=[own], output=[name])
            yield value, name


def _merge_opaque(proto: onnx.GraphProto, opaque: bytes) -> dict[str, onnx.ValueInfoProto]:
    """Return fields that are carried along; descriptions of outputs that their values cannot hold are returned."""
    if not opaque:
        return {}
    proto.MergeFromString(opaque)
    kept = {info.name: onnx.ValueInfoProto.FromString(info.SerializeToString()) for info in proto.output}
    del proto.output[:]
    return kept


def _tensor_of(value: Value) -> Tensor:
    if value.constant is None:
        raise ModelFileError(f"constant {value.name!r} has no values: set `constant` before saving")
    return value.constant


def _constants(graph: Graph, names: _Names, proto: onnx.GraphProto) -> list[NamedTensor]:
    tensors: list[NamedTensor] = []
    for value in (*(v for v in graph.inputs if v.constant is not None), *graph.constants):
        tensor, name = _tensor_of(value), names.of(value)
        stored = tensor.source
        if isinstance(stored, StoredTensor) and stored.sparse is not None:
            entry = proto.sparse_initializer.add()
            entry.CopyFrom(stored.sparse)
            entry.values.name = name
        else:
            tensors.append((name, tensor))
    order = {name: index for index, name in enumerate(graph.meta.get(INITIALIZERS, ()))}
    return sorted(tensors, key=lambda each: order.get(each[0], len(order))) if order else tensors


def _described(graph: Graph, names: _Names, outputs: set[Value], *, inputs: bool = False) -> dict[str, Value]:
    """Return values with an entry in `value_info`.

    Those of the file in its order, then all others with something to say.
    """
    listed = graph.meta.get(DECLARED, ())
    present = {names.result(value): value for value in graph.values()} if listed else {}
    found = {name: present[name] for name in listed if name in present}
    results = (value for node in graph for value in node.results if value not in outputs)
    for value in (*(graph.inputs if inputs else ()), *graph.constants, *results):
        name = names.result(value)
        known = value.declared if value.declared is not None else value.type
        typed = not isinstance(known, UnknownType) and value.constant is None
        if name and (typed or value.doc_string or value.metadata or value.opaque):
            found.setdefault(name, value)
    return found


def _write_infos(described: dict[str, Value], names: _Names, protos: Any) -> None:
    for value in described.values():
        _write_info(value, names.result(value), protos.add())


def _write_info(value: Value, name: str, proto: onnx.ValueInfoProto) -> None:
    if value.opaque:
        proto.MergeFromString(value.opaque)
    proto.name = name
    known = value.type if value.declared is None else value.declared
    if proto.HasField("type") and read_type(proto.type) != known:
        proto.ClearField("type")
    if not proto.HasField("type") and not isinstance(known, UnknownType):
        write_type(known, proto.type)
    if value.doc_string:
        proto.doc_string = value.doc_string
    if value.metadata:
        write_metadata(value.metadata, proto.metadata_props)


def write_opsets(opsets: dict[str, int], protos: Any) -> None:
    """Append operator set imports."""
    for domain, version in opsets.items():
        protos.add(domain=domain or None, version=version)
