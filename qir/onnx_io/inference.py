"""Types that a file leaves out, from one whole-graph inference on a copy without weights."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

import onnx
from google.protobuf.message import Error as ProtobufError

from qir.errors import QirError
from qir.graph import QIR_DOMAIN, Graph
from qir.module import Module
from qir.node import FAKE_QUANT, Node
from qir.onnx_io.tensors import write_tensor
from qir.onnx_io.type_protos import TypeReader, write_type
from qir.onnx_io.wire import GRAPH_INITIALIZER, MODEL_GRAPH, Piece, field
from qir.tensor import Tensor
from qir.types import DType, TensorType, Type, UnknownType
from qir.value import Value

LONGEST_SHAPE = 1 << 16
"""Vectors with more elements are no shapes."""

LARGEST_CONSTANT = 1024
"""Integer constants of at most this many elements stay in the copy: shapes, axes and repeats are read from them."""

_INTEGERS = {DType.INT64, DType.INT32}
_GRAPH_INPUT = 11


def is_typed(module: Module) -> bool:
    """Whether the type and rank of every value of the main graph are known."""
    return not any(_is_open(value._type) for node in module.graph for value in node.results if value._name)


def _is_open(type_: Type | None) -> bool:
    return isinstance(type_, UnknownType) or (isinstance(type_, TensorType) and type_.shape is None)


def infer_types(module: Module) -> None:
    """Fill in types that are unknown, or known less exactly than inference finds them; all graphs of the module.

    Types that inference cannot find stay as they are. `Value.declared` keeps what was known before, so that a file is
    written back as it was.

    Raises:
        ModelFileError: names clash, or a value is used outside the graph that owns it.
    """
    from qir.onnx_io.files import skeleton_of

    proto, tensors = skeleton_of(module)
    _replace_fake_quants(proto.graph)
    names = [name for name, _ in tensors]
    _infer(module, [proto.SerializeToString()], zip(names, (tensor for _, tensor in tensors), strict=True))


def infer_stored(module: Module, skeleton: bytes, tensors: Sequence[Tensor]) -> None:
    """`infer_types` for a module just read: its file without weights is at hand."""
    _infer(module, [skeleton], ((tensor.name, tensor) for tensor in tensors))


def _replace_fake_quants(graph: onnx.GraphProto) -> None:
    for node in graph.node:
        if node.domain == QIR_DOMAIN and node.op_type == FAKE_QUANT:
            node.domain, node.op_type = "", "Identity"
            del node.attribute[:]
        for attribute in node.attribute:
            for inner in (*([attribute.g] if attribute.HasField("g") else ()), *attribute.graphs):
                _replace_fake_quants(inner)


def _infer(module: Module, pieces: list[Piece], tensors: Iterable[tuple[str, Tensor]]) -> None:
    known = {value.name for value in module.graph.inputs}
    head: list[Piece] = []
    for name, tensor in tensors:
        if tensor.dtype in _INTEGERS and math.prod(tensor.shape) <= LARGEST_CONSTANT:
            head += field(GRAPH_INITIALIZER, write_tensor(tensor, name))
        elif name not in known:
            info = onnx.ValueInfoProto(name=name)
            write_type(tensor.type, info.type)
            head += field(_GRAPH_INPUT, [info.SerializeToString()])
    if any(map(_is_hazardous, module.graphs)):
        return
    copy = b"".join([*pieces, *field(MODEL_GRAPH, head)])
    try:
        found = onnx.shape_inference.infer_shapes(copy, data_prop=not any(map(_is_long, module.graph.values())))
    except (
        MemoryError,
        onnx.shape_inference.InferenceError,
        ProtobufError,
        TypeError,
        RuntimeError,
        ValueError,
        UnicodeError,
    ):
        return
    _apply(module.graph, found.graph, TypeReader())


def _is_long(value: Value) -> bool:
    """Whether ONNX's data propagation would take a vector for a shape and make a message for each element."""
    known = value._type
    if not isinstance(known, TensorType) or known.rank != 1:
        return False
    shape = known.static_shape()
    return shape is not None and shape[0] > LONGEST_SHAPE


_DIVISORS = ("strides", "group", "blocksize", "num_outputs", "dilations", "num_heads", "block_size")


def _is_hazardous(graph: Graph) -> bool:
    """Whether ONNX's inference would end the process: it divides by attributes and trusts the rank of some weights."""
    return any(_divides_by_zero(node) or _trusts_rank(node) for node in graph.walk())


def _divides_by_zero(node: Node) -> bool:
    attributes = node._attributes
    if not attributes:
        return False
    values = [attributes[name].value for name in _DIVISORS if name in attributes]
    return any(value == 0 or (isinstance(value, tuple) and 0 in value) for value in values)


def _trusts_rank(node: Node) -> bool:
    """Whether a convolution takes its kernel from a weight that is no constant of the same rank as the data."""
    if "Conv" not in node.op or "kernel_shape" in node._attributes:
        return False
    data, weight = node.input(0), node.input(1)
    if data is None or weight is None:
        return True
    ranks = [v._type.rank if isinstance(v._type, TensorType) else None for v in (data, weight)]
    return ranks[1] is None or ranks[1] < 3 or ranks[0] not in (None, ranks[1])


def _apply(graph: Graph, proto: onnx.GraphProto, types: TypeReader) -> None:
    found = {info.name: info.type for info in (*proto.value_info, *proto.output)}
    for node, inner in zip(graph, proto.node, strict=False):
        for value in node.results:
            if value._name in found:
                _refine(value, found[value._name], types)
        if node.subgraphs():
            graphs = [g for a in inner.attribute for g in (*([a.g] if a.HasField("g") else ()), *a.graphs)]
            for subgraph, message in zip(node.subgraphs(), graphs, strict=False):
                _apply(subgraph, message, types)


def _refine(value: Value, proto: onnx.TypeProto, types: TypeReader) -> None:
    before = value._type
    if before is None or (isinstance(before, TensorType) and before.static_shape() is not None):
        return
    try:
        made = _without_generated(types.read(proto)[0])
    except QirError:
        return
    if made == before or not _is_sharper(made, before):
        return
    declared = value.declared
    value.type = made
    value.declared = before if declared is None else declared


def _is_sharper(made: Type, before: Type) -> bool:
    if isinstance(before, UnknownType):
        return not isinstance(made, UnknownType)
    if not isinstance(before, TensorType) or not isinstance(made, TensorType) or made.element != before.element:
        return False
    if before.shape is None or made.shape is None:
        return made.shape is not None
    if len(made.shape) != len(before.shape):
        return False
    return all(
        new == old or old is None or isinstance(new, int) for new, old in zip(made.shape, before.shape, strict=True)
    ) and all(new == old for new, old in zip(made.shape, before.shape, strict=True) if isinstance(old, int))


def _without_generated(type_: Type) -> Type:
    """Without the symbols that inference makes up: they mean nothing and repeat in the next run."""
    if not isinstance(type_, TensorType) or type_.shape is None:
        return type_
    shape = tuple(None if isinstance(d, str) and d.startswith("unk__") else d for d in type_.shape)
    return type_ if shape == type_.shape else TensorType(type_.element, shape)
