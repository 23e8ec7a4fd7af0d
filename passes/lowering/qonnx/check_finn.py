"""What FINN's conversion takes, checked before a file is written, because FINN itself refuses it late.

The rules are those of its transformations ConvertQONNXtoFINN, FoldQuantWeights and ConvertQuantActToMultiThreshold, as
AMD's sources have them (read, not run). The fork FINN+ 1.6.1, which was run, converts every file that passes; it also
takes unsigned codes and quantizers after any operator.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

from qir.errors import ExportError
from qir.fake_quant import FakeQuant
from qir.graph import Graph
from qir.module import Module
from qir.passes.analysis.arithmetic.network import NetworkArithmetic, arithmetic_of
from qir.passes.analysis.arithmetic.quantizer import QuantizerArithmetic
from qir.passes.infrastructure.contract import Pass, PassContext
from qir.passes.lowering.parts.qonnx_forms import activation_form
from qir.types import TensorType

MOST_BITS = 8
"""Widest activation that becomes thresholds."""

_PREDECESSORS = {"Relu", "Add", "Sub", "Mul", "Div", "BatchNormalization", "Conv", "ConvTranspose", "Gemm", "MatMul"}
"""What may stand in front of a quantizer of activations; a layer's weight scale becomes a Mul after it."""

_WEIGHTED = {"Conv", "ConvTranspose", "Gemm", "MatMul"}


@dataclass(frozen=True)
class CheckFinn(Pass):
    """Refuse what FINN would refuse later; the module stays as it is."""

    name: ClassVar[str] = "check-finn"

    def run(self, module: Module, context: PassContext) -> bool:
        """Check; raises `ExportError` with every breach and its remedy."""
        breaches = [*_shapes(module.graph), *_quantizers(arithmetic_of(module, context))]
        if breaches:
            raise ExportError("FINN does not take this network: " + "; ".join(breaches))
        return False


def _shapes(graph: Graph) -> Iterator[str]:
    for value in graph.inputs:
        known = value.type
        if value.constant is None and (not isinstance(known, TensorType) or known.static_shape() is None):
            yield (
                f"input {value.name!r} has the type {known}, and FINN needs fixed sizes: run "
                f"freeze-inputs{{shapes=[{value.name}:1x…]}} and infer-types"
            )


def _quantizers(arithmetic: NetworkArithmetic) -> Iterator[str]:
    for quantizer in map(FakeQuant, arithmetic.graph.fake_quants()):
        yield from _weight(quantizer) if quantizer.is_weight else _activation(arithmetic.quantizer(quantizer))


def _weight(quantizer: FakeQuant) -> Iterator[str]:
    users = quantizer.result.users
    if len(users) != 1:
        yield f"weight {quantizer.name!r} has {len(users)} users, FINN folds it into one: copy the weight"
    elif users[0].op not in _WEIGHTED:
        known = ", ".join(sorted(_WEIGHTED))
        yield f"weight {quantizer.name!r} is used by {users[0].op}, FINN folds it into {known} only"


def _activation(record: QuantizerArithmetic) -> Iterator[str]:
    quantizer, form = record.quantizer, activation_form(record)
    producer = quantizer.source.producer
    before = None if producer is None else producer.op
    if before is not None and before not in _PREDECESSORS:
        yield (
            f"quantizer {quantizer.name!r} follows {before}, FINN knows {', '.join(sorted(_PREDECESSORS))} there: "
            "use the profile finn-thresholds"
        )
    elif form.bounds is not None:
        yield f"quantizer {quantizer.name!r} has a zero point: run symmetric-activations after calibrate"
    elif form.quantizer == "BipolarQuant":
        if before != "Relu" and not (form.scale == 1).all():
            yield f"quantizer {quantizer.name!r} is bipolar with a scale other than 1: use 2 bits or finn-thresholds"
    elif form.bits > MOST_BITS:
        yield f"quantizer {quantizer.name!r} has {form.bits} bits, FINN turns up to {MOST_BITS} into thresholds"
    elif form.signed == (before == "Relu"):
        wanted = "unsigned codes after Relu" if form.signed else "signed codes where no Relu stands before"
        yield f"quantizer {quantizer.name!r}: FINN takes {wanted}: run symmetric-activations{{everywhere=true}}"
