"""What ONNX Runtime's fused kernels compute, read from `fused_kernels.json`, and forms without what they compute wrong.

A node between DequantizeLinear and QuantizeLinear becomes an operator on codes. Where that operator deviates from ONNX
or is not loaded, the node gets a form that every version computes as ONNX says.
"""

from __future__ import annotations

from functools import cache
from importlib import resources
from typing import Any, Literal

import numpy as np
from pydantic import Field

from qir.fake_quant import FakeQuant
from qir.graph import Graph, Node
from qir.passes.analysis.quantized_layers import output_quantizer
from qir.passes.lowering.parts import emulate
from qir.passes.lowering.parts.chain import Chain
from qir.support.record import Record
from qir.tracing import quantizer_of

STANDARD = ("", "ai.onnx")


class Deviation(Record):
    """Where a fused kernel does not compute what ONNX says.

    Attributes:
        given: attributes that have one of these values.
        other_than: attributes with an element other than this one.
        stacked: only weights of more than two dimensions with a scale per channel.
        versions: of ONNX Runtime that were seen to deviate, among those of the table's source.
        found: what they do.
        form: what exported files have instead: `own-scale` = biases are on the grid of the sums, where both agree;
            `uncounted` = no padding is counted where there is none, else as `apart`; `apart` = the node stays in float.
    """

    given: dict[str, tuple[int | str, ...]] = Field(default_factory=dict)
    other_than: dict[str, int] = Field(default_factory=dict)
    stacked: bool = False
    versions: str
    found: str
    form: Literal["own-scale", "uncounted", "apart"]

    def covers(self, node: Node) -> bool:
        """Return whether a node has these attributes and such a weight."""
        given = all(node.attribute(name) in values for name, values in self.given.items())
        other = all(_has_other(node.attribute(name), value) for name, value in self.other_than.items())
        return given and other and (not self.stacked or _is_stacked(quantizer_of(node.input(1))))


class FusedKernel(Record):
    """The operator on codes that ONNX Runtime makes of an ONNX operator between quantizers.

    Attributes:
        op: ONNX's operator.
        kernel: what it becomes.
        accepts: ranks, attributes and element types that become it; others stay in float.
        computes: its arithmetic.
        left_out: attributes that it does not know, with the element that says nothing.
        deviations: where that is not what ONNX says.
    """

    op: str
    kernel: str
    accepts: str
    computes: str
    left_out: dict[str, int] = Field(default_factory=dict)
    deviations: tuple[Deviation, ...] = ()


class _Table(Record):
    format: Literal["qir.fused-kernels"]
    version: Literal[1]
    source: str
    kernels: tuple[FusedKernel, ...]


@cache
def fused_kernels() -> dict[str, FusedKernel]:
    """Return every fused kernel, by ONNX's operator."""
    text = (resources.files("qir.passes.lowering.profiles") / "fused_kernels.json").read_text(encoding="utf-8")
    return {kernel.op: kernel for kernel in _Table.model_validate_json(text).kernels}


def avoid_deviations(graph: Graph, node: Node) -> None:
    """Give a node between quantizers a form that fused kernels compute as ONNX says, or that none takes."""
    kernel = fused_kernels().get(node.op) if node.domain in STANDARD and not node.is_return else None
    if kernel is None or not kernel.deviations or quantizer_of(node.input(0)) is None:
        return
    for name, silent in kernel.left_out.items():
        if not _has_other(node.attribute(name), silent):
            node.set_attribute(name, None)
    fuses = output_quantizer(node) is not None or any(user.is_fake_quant for user in node.result.users)
    forms = {found.form for found in kernel.deviations if found.covers(node) and (fuses or found.stacked)}
    if "apart" in forms or ("uncounted" in forms and not _count_inside(node)):
        node.set_input(0, emulate.guarded(Chain(graph, node, node.name or node.result.name), node.operand(0)))


def _count_inside(node: Node) -> bool:
    """Write average pooling that counts its padding in a form without ceil_mode or without padding, where there is one.

    Windows of auto_pad SAME end with the padding; without padding there is none to count.
    """
    automatic = node.attribute("auto_pad", "NOTSET")
    if automatic in ("SAME_UPPER", "SAME_LOWER"):
        node.set_attribute("ceil_mode", 0)
    elif automatic == "VALID" or not any(node.attribute("pads") or ()):
        node.set_attribute("count_include_pad", 0)
    else:
        return False
    return True


def _is_stacked(quantizer: FakeQuant | None) -> bool:
    """Return whether a weight has more than two dimensions and a scale per channel."""
    weight = None if quantizer is None else quantizer.source.constant
    return quantizer is not None and weight is not None and len(weight.shape) > 2 and quantizer.grid().channels > 1


def _has_other(found: Any, value: int) -> bool:
    """Return whether an attribute is there and has an element other than a value."""
    return found is not None and any(element != value for element in np.ravel(found).tolist())
