"""Quantizers that were lowered to ordinary arithmetic and left their attributes on its last node.

`qir.passes.lowering.parts.marks` writes the marks.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from qir.backends.execution.evaluate import evaluate_apart
from qir.errors import QirError
from qir.fake_quant import FakeQuant, make_fake_quant
from qir.granularity import granularity_of
from qir.graph import Graph, Node, Value
from qir.module import Module
from qir.passes.analysis.constants import array_of, frozen, is_standard
from qir.passes.lowering.parts.emulate import LOWEST
from qir.passes.lowering.parts.marks import KEY, SOURCE
from qir.passes.raising.state import RaiseState
from qir.rewriting.engine import Rewriter, Rule, any_value, number, op
from qir.support.json_text import parse_json
from qir.tensor import Array, Tensor
from qir.types import DType, TensorType


def raise_marked(module: Module, graph: Graph, state: RaiseState) -> None:
    """Put the fake-quant node of every marked chain back, on the value that the chain read or on the constant it made.

    The chain itself is dead afterwards; a mark that cannot be read, or whose value is gone, is left with its reason.
    A mark stands on an operator of any kind, and is looked for by walking; so are the values that chains read.
    """
    marked = [node for node in graph if KEY in node.metadata]
    readers = {node.metadata[SOURCE]: node for node in graph if SOURCE in node.metadata}
    names, rewriter = {node.name: node for node in graph} if marked else {}, Rewriter("raise-marked")
    for node in marked:
        try:
            entry = parse_json(node.metadata[KEY])
            is_weight = entry["source"] is None
            source = _constant(module, graph, node, entry) if is_weight else _source(readers, names, entry)
            made = make_quantizer(source, entry, state)
        except (KeyError, TypeError, ValueError, IndexError, QirError) as error:
            state.leave(node, f"its mark of a quantizer cannot be read: {error}")
            continue
        rewriter.insert(made, after=node)
        if "grid" in entry:
            _quantize_again(rewriter, node.result, made, _constants(graph, entry, node.result))
            continue
        rewriter.redirect([use for use in node.result.uses if use.node is not made], made.result)
        if is_standard(node, "DequantizeLinear"):
            _quantize_again(rewriter, node.operands[0], made, node.operands[1:])


def _source(readers: dict[str, Node], names: dict[str, Node], entry: dict[str, Any]) -> Value:
    """Return what the chain of a quantizer reads; files written before 0.1.0 name the node that does."""
    place = entry["source"]
    node, index = (names[place[0]], place[1]) if isinstance(place, list) else (readers[entry["name"]], place)
    found: Value | None = node.inputs[index]
    if found is None:
        raise QirError(f"node {node.label!r} reads nothing there")
    return found


def _quantize_again(rewriter: Rewriter, codes: Value, made: Node, grid: Sequence[Value]) -> None:
    """Let what else reads the codes of a chain (operators on codes) read those of the quantizer that replaces it."""
    others = [use for use in codes.uses if use.node is not made and KEY not in use.node.metadata]
    if others:
        again = Node("QuantizeLinear", (made.result, *grid))
        again.result.type = codes.type
        rewriter.redirect(others, rewriter.insert(again, after=made).result)


def _constants(graph: Graph, entry: dict[str, Any], codes: Value) -> tuple[Value, Value]:
    """Scale and zero point of codes whose DequantizeLinear is gone."""
    scale, zero = entry["grid"]
    dtype = codes.type.dtype if isinstance(codes.type, TensorType) else DType.UINT8
    name = str(entry["name"])
    return (
        graph.add_constant(f"{name}.scale", Tensor.of(np.asarray(scale, np.float32))),
        graph.add_constant(f"{name}.zero_point", Tensor.of(np.asarray(zero), dtype=dtype)),
    )


GUARD = Rule(
    "drop-guard",
    op("Max", any_value("x"), number(float(LOWEST))),
    lambda match, rewriter: rewriter.replace(match.root, [], [match["x"]]),
)
"""Takes out the nodes that keep ONNX Runtime from quantizing float weights by itself: `Max(x, lowest float32)`."""


def make_quantizer(source: Value, entry: dict[str, Any], state: RaiseState) -> Node:
    """Return fake-quant node that an entry (`qir.passes.lowering.parts.marks.entry_of`) describes, not yet inserted."""
    bits = entry["bits"]
    made = make_fake_quant(
        source,
        name=entry["name"],
        bits=bits if isinstance(bits, int) else tuple(bits),
        widths=entry["widths"],
        signed=bool(entry["signed"]),
        narrow=bool(entry["narrow"]),
        granularity=granularity_of(entry["axis"], entry.get("block")),
    )
    quantizer = FakeQuant(made)
    quantizer.set_scheme({int(width): scheme for width, scheme in entry["schemes"].items()})
    quantizer.calibration = np.asarray(entry["ranges"], np.float32)
    for width, levels in entry.get("levels", {}).items():
        quantizer.set_levels(int(width), np.asarray(levels, np.float32))
    state.made.append(entry["name"])
    return made


def _constant(module: Module, graph: Graph, node: Node, entry: dict[str, Any]) -> Value:
    return graph.add_constant(str(entry["name"]), frozen(_evaluated(module, node.result)))


def _evaluated(module: Module, value: Value) -> Array:
    """Return what a chain of constants computes."""
    known, node = array_of(value), value.producer
    if known is not None:
        return known
    if node is None:
        raise QirError(f"{value.name!r} depends on an input")
    operands = [None if operand is None else _evaluated(module, operand) for operand in node.inputs]
    return evaluate_apart(node, operands, opsets=module.opsets)[value.index]
