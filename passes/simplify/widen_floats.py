"""Networks in half, bfloat or double precision as float32 inside."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import ClassVar

import numpy as np

from qir.graph import Graph, Node, Use, Value
from qir.module import Module
from qir.passes.infrastructure.contract import Pass, PassContext
from qir.rewriting.engine import Rewriter
from qir.tensor import Tensor
from qir.types import DType, TensorType

OTHER_FLOATS = frozenset({DType.FLOAT16, DType.BFLOAT16, DType.FLOAT64})
"""Element types that quantizers do not take."""

_CODES = {dtype.onnx_code for dtype in OTHER_FLOATS}
_ELEMENT_ATTRIBUTES = ("to", "dtype", "output_dtype")


@dataclass(frozen=True)
class WidenFloats(Pass):
    """Compute in float32 what a network computes in float16, bfloat16 or float64.

    Quantizers simulate float32, and ONNX Runtime's integer kernels give float32. Inputs and outputs keep their types:
    a Cast stands after each input and in front of each output. Verified IR in, verified IR out; results differ by the
    rounding that the narrower type did. A walk, not rules: the type of every value changes, whatever made it.
    """

    name: ClassVar[str] = "widen-floats"

    def run(self, module: Module, context: PassContext) -> bool:
        """Widen; True when anything was of another float type."""
        del context
        graph, rewriter = module.graph, Rewriter(self.name)
        outputs = {
            index: value.type for index, value in enumerate(graph.outputs) if value is not None and _is_other(value)
        }
        changed = False
        for value in graph.inputs:
            if _is_other(value):
                changed = _cast_input(graph, value, rewriter) or changed
        for own in module.graphs:
            changed = _widen(own, rewriter, is_main=own is graph) or changed
        for index, kind in outputs.items():
            _cast_output(graph, index, kind, rewriter)
        return changed


def _is_other(value: Value) -> bool:
    return isinstance(value.type, TensorType) and value.type.quant is None and value.type.dtype in OTHER_FLOATS


def _cast_input(graph: Graph, value: Value, rewriter: Rewriter) -> bool:
    uses = [use for use in value.uses if not use.node.is_return]
    if not uses:
        return False
    made = Node("Cast", (value,), name=f"{value.name}.widen", attributes={"to": DType.FLOAT32.onnx_code})
    made.result.type = value.tensor_type.with_element(DType.FLOAT32)
    rewriter.insert(made, before=next(iter(graph)))
    rewriter.redirect(uses, made.result)
    return True


def _widen(graph: Graph, rewriter: Rewriter, *, is_main: bool) -> bool:
    """Widen constants, results and attributes of a graph and those inside it."""
    changed = False
    for value in graph.constants if is_main else (*graph.inputs, *graph.constants):
        changed |= _widen_value(value)
    for node in graph:
        changed |= _widen_attributes(node, rewriter)
        for value in node.results:
            changed |= _widen_value(value)
        for inner in node.subgraphs():
            changed |= _widen(inner, rewriter, is_main=False)
    return changed


def _widen_value(value: Value) -> bool:
    if not _is_other(value) and (value.constant is None or value.constant.dtype not in OTHER_FLOATS):
        return False
    if value.constant is not None:
        value.constant = _widened(value.constant)
    if isinstance(value.type, TensorType):
        value.type = value.type.with_element(DType.FLOAT32)
    return True


def _widened(tensor: Tensor) -> Tensor:
    return Tensor.of(tensor.numpy().astype(np.float32))


def _widen_attributes(node: Node, rewriter: Rewriter) -> bool:
    changed = False
    for name, attribute in list(node.attributes.items()):
        if attribute.reference:
            continue
        value = node.attribute(name)
        if isinstance(value, Tensor) and value.dtype in OTHER_FLOATS:
            rewriter.modify(node, partial(node.set_attribute, name, _widened(value)))
            changed = True
        elif name in _ELEMENT_ATTRIBUTES and value in _CODES:
            rewriter.modify(node, partial(node.set_attribute, name, DType.FLOAT32.onnx_code))
            changed = True
    return changed


def _cast_output(graph: Graph, index: int, kind: object, rewriter: Rewriter) -> None:
    value = graph.outputs[index]
    if value is None or not isinstance(kind, TensorType) or _is_other(value):
        return
    made = Node("Cast", (value,), name=f"{value.name}.narrow", attributes={"to": kind.dtype.onnx_code})
    made.result.type = kind
    rewriter.insert(made, before=graph.return_node)
    rewriter.redirect([Use(graph.return_node, index)], made.result)
