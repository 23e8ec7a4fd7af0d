"""Nodes that compute the same become one."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass
from typing import ClassVar

from qir.attributes import Attribute
from qir.graph import Graph, Node, Value
from qir.module import Module
from qir.ops import op_of
from qir.passes.analysis.constants import erase, is_standard
from qir.passes.infrastructure.contract import Pass, PassContext
from qir.tensor import Tensor

_SMALL = 64


@dataclass(frozen=True)
class EliminateCommonSubexpressions(Pass):
    """Merge nodes of ONNX's operator set with the same operator, attributes and operands, per graph.

    Constants of up to 64 elements count as the same operand when they are equal; larger ones when they are the same
    value. Operators that draw random numbers, nodes with subgraphs and quantizers are never merged.
    """

    name: ClassVar[str] = "eliminate-common-subexpressions"

    def run(self, module: Module, context: PassContext) -> bool:
        """Merge; True when two nodes became one."""
        del context
        changed = False
        for graph in module.graphs:
            changed |= _merge(graph)
        return changed


def _merge(graph: Graph) -> bool:
    changed = False
    seen: dict[Hashable, Node] = {}
    for node in graph.nodes:
        for inner in node.subgraphs():
            changed |= _merge(inner)
        key = _key(node)
        if key is None:
            continue
        first = seen.setdefault(key, node)
        if first is node or any(v.is_output for v in node.results):
            continue
        for kept, merged in zip(first.results, node.results, strict=True):
            merged.replace_all_uses_with(kept)
        erase(node)
        changed = True
    return changed


def _key(node: Node) -> Hashable | None:
    if node.domain not in {"", "ai.onnx"} or is_standard(node, "Dropout") or op_of(node).is_random or node.subgraphs():
        return None
    attributes = tuple((name, _attribute_key(value)) for name, value in sorted(node.attributes.items()))
    names = tuple(bool(value.name) for value in node.results)
    return node.op, attributes, tuple(map(_operand_key, node.inputs)), names


def _attribute_key(attribute: Attribute) -> Hashable:
    value = attribute.value
    if isinstance(value, Tensor):
        return (attribute.kind, *_tensor_key(value))
    if isinstance(value, tuple) and any(isinstance(v, Tensor) for v in value):
        return attribute.kind, tuple(_tensor_key(v) for v in value)
    return attribute.kind, value, attribute.reference


def _operand_key(value: Value | None) -> Hashable:
    if value is not None and value.is_constant and value.constant is not None and value.constant.size <= _SMALL:
        return _tensor_key(value.constant)
    return value


def _tensor_key(tensor: Tensor) -> tuple[Hashable, ...]:
    if tensor.size > _SMALL:
        return (id(tensor),)
    array = tensor.numpy()
    return tensor.dtype, tensor.shape, repr(array.tolist()) if array.dtype.hasobject else array.tobytes()
