"""Weights narrow enough for x86 CPUs without VNNI, whose 8-bit kernels add products in pairs in int16.

Two products of unsigned 8-bit activations and signed 8-bit weights leave int16, and VPMADDUBSW saturates; with weights
of 7 bits (or activations of 7) none does. ONNX Runtime's quantizer calls this `reduce_range`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from qir.backends.execution.saturation import CodeRange
from qir.constraints import OperandRules
from qir.fake_quant import FakeQuant
from qir.module import Module
from qir.passes.analysis.arithmetic.quantizer import QuantizerArithmetic
from qir.passes.analysis.constants import set_constant
from qir.passes.analysis.quantized_layers import QuantizedLayer, quantized_layers
from qir.passes.infrastructure.contract import Pass, PassContext
from qir.passes.lowering.saturation.layers import planned
from qir.quantizers.kernels import channel_shape
from qir.types import DType

_SCALED = {"uniform": (2, 2), "uniform-asymmetric": (2, 2), "uniform-step": (1, 2)}
"""By scheme, what doubles the step of a (low, high) range."""


@dataclass(frozen=True)
class ReduceRange(Pass):
    """Give weights that can saturate the next narrower candidate width that cannot: 7 bits where 8 meet 8.

    Where the weight has no such candidate, or the target no such pair, it keeps its width: its step is doubled and its
    values are clipped to the range that they had, so that 8 bits hold the codes -64 to 64. Weights without a uniform
    grid around zero stay; export stores them as uint8.

    Verified IR in, verified IR out; run it after `calibrate`, or give `export` its option `reduce_range`.
    """

    name: ClassVar[str] = "reduce-range"

    def run(self, module: Module, context: PassContext) -> bool:
        """Narrow weights; True when one was."""
        rules = None if context.target is None else context.target.operand_rules()
        before = module.version, module.policy_version
        for layer in quantized_layers(module.graph):
            if layer.weight_tensor is not None and _saturates(layer, *_found_codes(layer.weight)):
                _narrow(layer, rules)
        return (module.version, module.policy_version) != before


def _saturates(layer: QuantizedLayer, low: int, high: int) -> bool:
    """Tell whether products of the layer's input and signed codes from `low` to `high` can leave int16 in pairs."""
    data = layer.data.grid()
    shift = 0 if data.low_code >= 0 else 128  # ONNX Runtime reads signed activations as unsigned on x86
    largest = data.high_code + shift
    if not data.has_integer_codes or largest > 255 or not -128 <= low <= high <= 127:
        return False
    return planned(layer, CodeRange(DType.UINT8, data.low_code + shift, largest), CodeRange(DType.INT8, low, high))


def _found_codes(weight: FakeQuant) -> tuple[int, int]:
    """Return the smallest and largest code of a signed weight; (0, 0) where it has no codes around zero."""
    codes = QuantizerArithmetic(weight).codes
    if codes is None or codes.low >= 0:
        return 0, 0
    return int(codes.values.min()), int(codes.values.max())


def _narrow(layer: QuantizedLayer, rules: OperandRules | None) -> None:
    weight, found, data = layer.weight, layer.weight.bits, layer.data.bits
    if not isinstance(data, int):
        return
    for width in reversed(weight.widths):
        grid = weight.grid(width)
        legal = rules is None or rules.allows(data, width, layer.node.op)
        if legal and grid.has_integer_codes and not _saturates(layer, grid.low_code, grid.high_code):
            weight.bits = width if isinstance(found, int) else tuple(min(bits, width) for bits in found)
            return
    if isinstance(found, int) and weight.scheme_name(found) in _SCALED:
        _double_step(weight, found)


def _double_step(weight: FakeQuant, bits: int) -> None:
    """Clip a weight to the range of its codes, and give the codes twice the step."""
    grid, axis = weight.grid(), weight.granularity.axis
    if grid.zero_point.any():
        return
    values = QuantizerArithmetic(weight).weight
    scale = grid.scale.reshape(channel_shape(values.shape, grid.channels, axis))
    ranges = weight.ranges(bits) * np.asarray(_SCALED[weight.scheme_name(bits)], np.float32)
    set_constant(
        weight.node, 0, np.clip(values, grid.low_code * scale, grid.high_code * scale), f"{weight.name}.clipped"
    )
    weight.set_ranges(bits, ranges)
