"""Weights narrow enough for x86 CPUs without VNNI, whose 8-bit kernels add products in pairs in int16.

Two products of unsigned 8-bit activations and signed 8-bit weights leave int16, and VPMADDUBSW saturates; with weights
of 7 bits (or activations of 7) none does. ONNX Runtime's quantizer calls this `reduce_range`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from qir.backends.target import saturates
from qir.errors import PassError
from qir.fake_quant import bits_of, parameters_of
from qir.graph import Node
from qir.module import Module
from qir.passes.manager import Pass, PassContext
from qir.passes.quantized_layers import QuantizedLayer, quantized_layers


@dataclass(frozen=True)
class ReduceRange(Pass):
    """Give weights that can saturate the next narrower candidate width that cannot: 7 bits where 8 meet 8.

    Verified IR in, verified IR out; run it behind `calibrate`, or give `export` its option `reduce_range`.
    """

    name: ClassVar[str] = "reduce-range"

    def run(self, module: Module, context: PassContext) -> bool:
        """Narrow weights; raises `PassError` for one that has no candidate width narrow enough."""
        del context
        saturating = [layer for layer in quantized_layers(module.graph) if _saturates(layer, bits_of(layer.weight))]
        for layer in saturating:
            layer.weight.set_attribute("bits", _narrowed(layer))
        return bool(saturating)


def _saturates(layer: QuantizedLayer, bits: int | tuple[int, ...]) -> bool:
    """Whether codes of unsigned activations and of a signed weight of this width can leave int16 in pairs."""
    if layer.weight_tensor is None:
        return False
    data, widest = parameters_of(layer.data), bits if isinstance(bits, int) else max(bits)
    grid = parameters_of(layer.weight, widest)
    if not (data.has_integer_codes and grid.has_integer_codes) or data.low_code < 0 or grid.low_code >= 0:
        return False
    return saturates(data.high_code, max(-grid.low_code, grid.high_code))


def _narrowed(layer: QuantizedLayer) -> int | tuple[int, ...]:
    """The widest candidate width that cannot saturate; channels that are narrower already stay."""
    found, weight = bits_of(layer.weight), layer.weight
    for width in sorted(_candidates(weight), reverse=True):
        if not _saturates(layer, width):
            return width if isinstance(found, int) else tuple(min(bits, width) for bits in found)
    raise PassError(
        f"layer {layer.name!r}: its weight has no candidate width whose products with its input fit int16 in pairs "
        f"(it has {', '.join(map(str, _candidates(weight)))}): give it 7 bits too, "
        "insert-fake-quant{weight_widths=7|8}, or choose a target with reduce_range"
    )


def _candidates(weight: Node) -> tuple[int, ...]:
    widths: tuple[int, ...] = tuple(weight.attribute("widths"))
    return widths
