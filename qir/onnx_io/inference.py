"""Types that a file leaves out, from one whole-graph inference on a copy without weights."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any

import onnx
from google.protobuf.message import Error as ProtobufError

from qir.errors import ModelFileError, QirError
from qir.graph import QIR_DOMAIN, Graph
from qir.module import Module
from qir.node import FAKE_QUANT
from qir.onnx_io.protos.tensors import write_tensor
from qir.onnx_io.protos.types import TypeReader, write_type
from qir.onnx_io.protos.wire import GRAPH_INITIALIZER, MODEL_GRAPH, Piece, field
from qir.onnx_io.sandbox import INFER, INFER_WITH_DATA, LateError, LimitError, RefusedError, run_apart
from qir.onnx_io.skeleton import skeleton_of
from qir.tensor import Tensor
from qir.types import DType, TensorType, Type, UnknownType
from qir.value import Value

LARGEST_MEMORY = 256 << 20
"""Bytes that ONNX's inference may take, more for files of many megabytes."""

LARGEST_CONSTANT = 1024
"""Integer constants of at most this many elements stay in the copy: shapes, axes and repeats are read from them."""

_INTEGERS = {DType.INT64, DType.INT32}
_GRAPH_INPUT = 11


def is_typed(module: Module) -> bool:
    """Return whether the type and rank of every value of the main graph are known."""
    return not any(_is_open(value._type) for node in module.graph for value in node.results if value._name)


def _is_open(type_: Type | None) -> bool:
    return isinstance(type_, UnknownType) or (isinstance(type_, TensorType) and type_.shape is None)


def infer_types(module: Module) -> None:
    """Fill in types that are unknown, or known less exactly than inference finds them; all graphs of the module.

    Types that inference cannot find stay as they are. `Value.declared` keeps what was known before, so that a file is
    written back as it was.

    Raises:
        ModelFileError: names clash, a value is used outside the graph that owns it, or inference takes more than its
            limits of time and memory.
    """
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
    found = _found(b"".join([*pieces, *field(MODEL_GRAPH, head)]))
    if found is not None:
        _apply(module.graph, found.graph, TypeReader())


def _found(copy: bytes) -> onnx.ModelProto | None:
    """Return what ONNX's inference says, None where it fails.

    Without the numbers in computed shapes when these are too many.

    Raises:
        ModelFileError: it takes more time or, in both ways, more memory than its limits.
    """
    megabytes = len(copy) / (1 << 20)
    limits: dict[str, Any] = {"seconds": 3 + megabytes, "memory": LARGEST_MEMORY + 64 * len(copy)}
    try:
        try:
            answer = run_apart(INFER_WITH_DATA, copy, **limits)
        except LateError:
            raise
        except LimitError:
            answer = run_apart(INFER, copy, **limits)
        found: onnx.ModelProto = onnx.ModelProto.FromString(answer)
    except (RefusedError, ProtobufError):
        return None
    except LimitError as error:
        raise ModelFileError(
            f"ONNX's type inference fails on it: {error}: a shape in it is absurd, or an attribute damaged; "
            "a file whose values all have types (value_info) needs no inference"
        ) from None
    return found


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
        known = not isinstance(made, UnknownType)
        return known and not (isinstance(made, TensorType) and made.element is DType.UNDEFINED)
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
