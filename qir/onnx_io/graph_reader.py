"""Graphs and functions from their messages."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from itertools import islice

import onnx

from qir.attributes import Attribute, AttributeKind
from qir.errors import ModelFileError
from qir.graph import Graph
from qir.module import Function
from qir.node import Node
from qir.onnx_io.protos.attributes import AttributeReader
from qir.onnx_io.protos.external import DataFolder
from qir.onnx_io.protos.metadata import read_metadata, text
from qir.onnx_io.protos.opaque import has_unmodelled_fields, unmodelled
from qir.onnx_io.protos.tensors import read_sparse, read_tensor
from qir.onnx_io.protos.types import TypeReader
from qir.onnx_io.sorting import sorted_nodes
from qir.tensor import Tensor
from qir.types import UnknownType
from qir.value import Value

DECLARED = "onnx.value_info"
"""Key in `Graph.meta`: names of the values that the file's `value_info` lists, in its order."""

INITIALIZERS = "onnx.initializer"
"""Key in `Graph.meta`: names of the constants in the file's order, where inputs with defaults are among them."""

UNTYPED = "onnx.output"
"""Key in `Graph.meta`: names of the outputs whose types the file leaves out."""

DEEPEST = 64
"""Graphs may nest this deep."""

_FAKE_QUANT_KINDS = {
    "bits": {AttributeKind.INT, AttributeKind.INTS},
    "signed": {AttributeKind.INT},
    "narrow": {AttributeKind.INT},
    "scheme": {AttributeKind.STRING, AttributeKind.STRINGS},
    "axis": {AttributeKind.INT},
    "widths": {AttributeKind.INTS},
    "ranges": {AttributeKind.TENSOR},
    "stale": {AttributeKind.INT},
}


class _UndefinedError(Exception):
    """A node reads a name that nothing before it defines."""


class _Scope:
    """Values by name in one graph, what the file says of them, and the graph around it."""

    __slots__ = ("depth", "infos", "outer", "values", "where")

    def __init__(self, where: str, outer: _Scope | None, infos: dict[str, onnx.ValueInfoProto]) -> None:
        self.where = where
        self.outer = outer
        self.infos = infos
        self.depth: int = 0 if outer is None else outer.depth + 1
        self.values: dict[str, Value] = {}

    def find(self, name: str) -> Value:
        scope: _Scope | None = self
        while scope is not None:
            value = scope.values.get(name)
            if value is not None:
                return value
            scope = scope.outer
        raise _UndefinedError(name)


class GraphReader:
    """Reads the graphs and functions of one file."""

    def __init__(self, folder: DataFolder, *, unknown: bool = True) -> None:
        """Make a reader; `unknown` = False promises that no message has unknown fields (`has_unknown_fields`)."""
        self._folder = folder
        self._unknown = unknown
        self._extra_info = unknown or has_unmodelled_fields(onnx.ValueInfoProto)
        self._types = TypeReader()
        self._scope: _Scope | None = None
        self._attributes = AttributeReader(folder, self._types, self._read_subgraph)
        self.is_sorted = True

    @property
    def is_as_written(self) -> bool:
        """Whether the file says things as the writer does: nodes are in order, attributes tell their kinds."""
        return self.is_sorted and self._attributes.all_told

    def read_graph(self, proto: onnx.GraphProto, tensors: Sequence[Tensor]) -> Graph:
        """Return a graph whose initializers were read before.

        Raises:
            ModelFileError: names are undefined or defined twice, nodes form a cycle, or a part is invalid.
        """
        infos = {info.name: info for info in (*proto.value_info, *proto.output, *proto.input)}
        where = f"graph {proto.name!r}"
        graph, scope = self._build(where, infos, proto.node, partial(self._fill_head, proto, tensors))
        self._set_outputs(graph, scope, [info.name for info in proto.output])
        graph.name = text(proto.name)
        graph.doc_string = text(proto.doc_string)
        graph.metadata, shadowed = read_metadata(proto.metadata_props)
        repeated = len(infos) < len(proto.value_info) + len(proto.output) + len(proto.input)
        rest = onnx.GraphProto(metadata_props=shadowed)
        if repeated or not infos.keys() <= scope.values.keys():
            for entries, kept in ((proto.value_info, rest.value_info), (proto.output, rest.output)):
                kept.extend(i for i in entries if i.name not in scope.values or not _is_entry(infos, i))
        graph.opaque = unmodelled(proto) + rest.SerializeToString()
        if any(value.constant is not None for value in graph.inputs):
            graph.meta[INITIALIZERS] = tuple(tensor.name for tensor in tensors)
        if untyped := {info.name for info in proto.output if not info.type.WhichOneof("value")}:
            graph.meta[UNTYPED] = untyped
        if proto.value_info:
            listed = (i.name for i in proto.value_info if _is_entry(infos, i))
            graph.meta[DECLARED] = tuple(dict.fromkeys(listed) if repeated else islice(infos, len(proto.value_info)))
        return graph

    def read_function(self, proto: onnx.FunctionProto) -> Function:
        """Return a model-local function.

        Raises:
            ModelFileError: as `read_graph`.
        """
        infos = {info.name: info for info in proto.value_info}
        where = f"function {proto.domain}.{proto.name}"

        def fill(graph: Graph, scope: _Scope) -> None:
            graph.add_inputs([self._define(scope, name) for name in proto.input])

        graph, scope = self._build(where, infos, proto.node, fill)
        self._set_outputs(graph, scope, list(proto.output))
        graph.name = text(proto.name)
        if proto.value_info:
            graph.meta[DECLARED] = tuple(infos)
        made = Function(text(proto.domain), graph.name, graph, overload=text(proto.overload))
        made.attribute_names = tuple(map(text, proto.attribute))
        made.attributes = {text(a.name): self._attributes.read(a) for a in proto.attribute_proto}
        made.opsets = read_opsets(proto.opset_import)
        made.doc_string = text(proto.doc_string)
        made.metadata, shadowed = read_metadata(proto.metadata_props)
        rest = onnx.FunctionProto(
            metadata_props=shadowed, value_info=[i for i in proto.value_info if i.name not in scope.values]
        )
        made.opaque = unmodelled(proto) + rest.SerializeToString()
        return made

    def _read_subgraph(self, proto: onnx.GraphProto) -> Graph:
        return self.read_graph(proto, [read_tensor(tensor, self._folder) for tensor in proto.initializer])

    def _build(
        self,
        where: str,
        infos: dict[str, onnx.ValueInfoProto],
        nodes: Sequence[onnx.NodeProto],
        fill: Callable[[Graph, _Scope], None],
    ) -> tuple[Graph, _Scope]:
        """Return a graph with inputs, constants and nodes; nodes in a wrong order are sorted first."""
        outer = self._scope
        try:
            for protos in (nodes, None):
                scope = self._scope = _Scope(where, outer, infos)
                if scope.depth > DEEPEST:
                    raise ModelFileError(f"{where}: graphs nest deeper than {DEEPEST}")
                graph = Graph()
                fill(graph, scope)
                try:
                    self._add_nodes(graph, scope, nodes if protos is None else protos)
                except _UndefinedError as error:
                    nodes = self._reordered(nodes, protos is not None, error, where)
                else:
                    return graph, scope
        finally:
            self._scope = outer
        raise ModelFileError(f"{where}: its nodes cannot be ordered")

    def _reordered(
        self, nodes: Sequence[onnx.NodeProto], first: bool, error: _UndefinedError, where: str
    ) -> list[onnx.NodeProto]:
        ordered = sorted_nodes(nodes, where)
        if not first or all(a is b for a, b in zip(ordered, nodes, strict=True)):
            raise ModelFileError(
                f"{where}: a node reads {str(error)!r}, which nothing defines: the file is damaged or a part of another"
            )
        self.is_sorted = False
        return ordered

    def _fill_head(self, proto: onnx.GraphProto, tensors: Sequence[Tensor], graph: Graph, scope: _Scope) -> None:
        graph.add_inputs([self._define(scope, info.name) for info in proto.input])
        sparse = [read_sparse(entry, self._folder) for entry in proto.sparse_initializer]
        for tensor in (*tensors, *sparse):
            value = scope.values.get(tensor.name)
            if value is not None and value.constant is None and value.is_input:
                value._constant = tensor
                continue
            value = self._define(scope, tensor.name)
            declared = value._type
            graph.add_constant(value, tensor)
            if tensor.name in scope.infos:
                value._type = declared

    def _define(self, scope: _Scope, name: str) -> Value:
        if not name or name in scope.values:
            found = "defined twice" if name else "without a name"
            raise ModelFileError(
                f"{scope.where}: value {name!r} is {found}: names are unique and not empty; rename one"
            )
        value = scope.values[name] = self._make_value(text(name), scope)
        return value

    def _make_value(self, name: str, scope: _Scope) -> Value:
        info = scope.infos.get(name)
        if info is None:
            return Value(name)
        declared, exact = self._types.read(info.type)
        value = Value(name, declared)
        if info.doc_string:
            value.doc_string = text(info.doc_string)
        rest = unmodelled(info) if self._extra_info else b""
        if pairs := info.metadata_props:
            value.metadata, shadowed = read_metadata(pairs)
            rest += onnx.ValueInfoProto(metadata_props=shadowed).SerializeToString()
        if not exact or (isinstance(declared, UnknownType) and info.HasField("type")):  # an empty one is not none
            rest += onnx.ValueInfoProto(type=info.type).SerializeToString()
        if rest:
            value.opaque = rest
        return value

    def _add_nodes(self, graph: Graph, scope: _Scope, protos: Sequence[onnx.NodeProto]) -> None:
        values, unknown = scope.values, self._unknown
        for proto in protos:
            operands = [(values.get(name) or scope.find(name)) if name else None for name in proto.input]
            attributes = self._read_attributes(proto, scope) if proto.attribute else None
            results = []
            for name in proto.output:
                if name in values:
                    raise ModelFileError(
                        f"{scope.where}: value {name!r} is defined twice: names are unique; rename one of them"
                    )
                results.append(self._make_value(text(name), scope) if name else Value(""))
            domain = text(proto.domain)
            node = Node(
                text(proto.op_type),
                operands,
                results,
                domain="" if domain == "ai.onnx" else domain,
                name=text(proto.name),
                attributes=attributes,
                overload=text(proto.overload),
            )
            if proto.doc_string:
                node.doc_string = text(proto.doc_string)
            rest = unmodelled(proto, unknown=unknown)
            if pairs := proto.metadata_props:
                node.metadata, shadowed = read_metadata(pairs)
                rest += onnx.NodeProto(metadata_props=shadowed).SerializeToString()
            if rest:
                node.opaque = rest
            if domain == "qir":
                _check_own_op(node, scope.where)
            graph._append_new(node)
            for value in results:
                if value._name:
                    if value._name in values:
                        raise ModelFileError(
                            f"{scope.where}: node {node} defines {value._name!r} twice: rename one result"
                        )
                    values[value._name] = value

    def _read_attributes(self, proto: onnx.NodeProto, scope: _Scope) -> dict[str, Attribute]:
        attributes: dict[str, Attribute] = {}
        for attribute in proto.attribute:
            name = text(attribute.name)
            if name in attributes:
                raise ModelFileError(
                    f"{scope.where}: node {proto.op_type} {proto.name!r} has the attribute {name!r} twice: remove one"
                )
            attributes[name] = self._attributes.read(attribute)
        return attributes

    def _set_outputs(self, graph: Graph, scope: _Scope, names: list[str]) -> None:
        try:
            graph.set_outputs([scope.find(name) if name else None for name in names], names)
        except _UndefinedError as error:
            raise ModelFileError(
                f"{scope.where}: its output {str(error)!r} is defined by nothing: the file is damaged"
            ) from None


def _is_entry(infos: dict[str, onnx.ValueInfoProto], info: onnx.ValueInfoProto) -> bool:
    """Return whether an entry says what counts for its name: it is the last one, or the same as that."""
    last = infos[info.name]
    return last is info or last == info


def read_opsets(entries: Sequence[onnx.OperatorSetIdProto]) -> dict[str, int]:
    """Return versions of operator sets; ONNX's own has the domain "" (`ai.onnx` is its other name).

    Raises:
        ModelFileError: a version is absurd, or a domain is imported in two versions.
    """
    opsets: dict[str, int] = {}
    for entry in entries:
        domain = "" if entry.domain == "ai.onnx" else text(entry.domain)
        if not 0 <= entry.version < 2**31:
            raise ModelFileError(f"operator set {domain!r} has the version {entry.version}: the file is damaged")
        if opsets.setdefault(domain, entry.version) != entry.version:
            raise ModelFileError(
                f"operator set {domain!r} is imported in versions {opsets[domain]} and {entry.version}"
            )
    return opsets


def _check_own_op(node: Node, where: str) -> None:
    """Refuse malformed fake-quant nodes: everything else relies on their attributes."""
    if node.is_return:
        raise ModelFileError(f"{where}: the op qir.return is not written into files: outputs are listed by the graph")
    if not node.is_fake_quant:
        return
    attributes = node.attributes
    problem = None
    if len(node.inputs) != 1 or node.inputs[0] is None or len(node.results) != 1:
        problem = "it has one operand and one result"
    elif "bits" not in attributes or "widths" not in attributes:
        problem = "its attributes bits and widths are missing"
    for name, kinds in _FAKE_QUANT_KINDS.items():
        found = attributes.get(name)
        if found is not None and (found.kind not in kinds or found.reference):
            problem = f"attribute {name!r} is of kind {found.kind.name}"
    ranges = node.attribute("ranges") if problem is None else None
    if ranges is not None and (
        len(ranges.shape) != 3 or ranges.shape[0] != len(node.attribute("widths")) or ranges.shape[2] != 2
    ):
        problem = f"ranges have the shape {ranges.shape}, expected [widths, channels, 2]"
    if problem is not None:
        raise ModelFileError(f"{where}: quantizer {node.name!r}: {problem}: see qir.fake_quant for its attributes")
