"""Refusal of networks that hold codes already: quantizing them again would round a second time."""

from __future__ import annotations

from collections import Counter

from qir.errors import PassError
from qir.graph import Node
from qir.module import Module
from qir.ops import op_of
from qir.ops.families.qonnx import QONNX_DOMAINS

_AT_RUN_TIME = ("DynamicQuantize", "ConvInteger", "MatMulInteger")
_ON_CODES = (
    "QuantizeLinear",
    "DequantizeLinear",
    "QLinear",
    "QGemm",
    "QAttention",
    "MatMulNBits",
    "MatMulBnb4",
    "GatherBlockQuantized",
)
_FROM_THERE = (
    "for other widths give the float network that it was made from, or take the floats that its codes stand for, "
    "which rounds its weights twice: `--before dequantize`"
)


def refuse_quantized(module: Module) -> None:
    """Refuse a network that is quantized already, in whatever form, whole or in its weights alone.

    Raises:
        PassError: it is; the message counts its operators and names the commands that take such a file.
    """
    found = [node for node in module.graph.walk() if _holds_codes(node)]
    if not found:
        return
    counts = Counter(node.op for node in found)
    what = ", ".join(f"{count} {op}" for op, count in counts.most_common(3))
    if any(node.op.startswith(_AT_RUN_TIME) for node in found):
        remedy = f"its activations are quantized at run time, which no command of qir changes: {_FROM_THERE}"
    else:
        remedy = f"`qir export` writes it in another profile, `qir verify` checks it; {_FROM_THERE}"
    raise PassError(f"the network is quantized already ({what}; the first is {found[0].label!r}): {remedy}")


def _holds_codes(node: Node) -> bool:
    op = op_of(node)
    by_kind = node.is_fake_quant or op.is_quantize or op.is_dequantize or node.domain in QONNX_DOMAINS
    return by_kind or node.op.startswith((*_AT_RUN_TIME, *_ON_CODES))
