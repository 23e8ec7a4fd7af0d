"""Weight ranges wide enough for the layer's bias to fit int32."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from qir.fake_quant import FakeQuant
from qir.module import Module
from qir.passes.analysis.quantized_layers import QuantizedLayer, quantized_layers
from qir.passes.infrastructure.contract import Pass, PassContext
from qir.quantizers.parameters import SMALLEST_SCALE
from qir.tensor import Array

_LARGEST_CODE = 2.0**30
_SLACK = 1.001


@dataclass(frozen=True)
class FitBias(Pass):
    """Widen the ranges of weight channels whose bias would not fit int32 at scale s_x * s_w.

    A channel that is dead before quantization (its weights are many orders below its bias, as BatchNorm with a
    vanishing variance leaves them) has a scale so small that the bias overflows. Its range is widened, at every
    candidate width, until the bias has at most 2^30 steps at the finest candidate scale of the data: one step of the
    weight is then below one part in 2^30 of the bias. Names of the layers changed are in `context.reports["fit-bias"]`.
    """

    name: ClassVar[str] = "fit-bias"

    def run(self, module: Module, context: PassContext) -> bool:
        """Widen; True when a range was. Layers without ranges or without a constant bias are passed over."""
        changed = [layer.name for layer in quantized_layers(module.graph) if widen(layer)]
        context.reports[self.name] = changed
        return bool(changed)


def widen(layer: QuantizedLayer) -> bool:
    """Widen the weight ranges of one layer where its bias asks for it; True when one was."""
    data, weight = layer.data, layer.weight
    if layer.bias is None or layer.bias.constant is None or not (data.is_calibrated and weight.is_calibrated):
        return False
    finest = min(float(data.grid(bits).scale.min()) for bits in data.widths)
    needed = np.abs(layer.bias.constant.numpy().astype(np.float64)).reshape(-1) / (finest * _LARGEST_CODE)
    made = [_widened(weight, bits, needed) for bits in weight.widths]
    if all(factor is None for factor, _ in made):
        return False
    weight.calibration = np.stack([ranges for _, ranges in made])
    return True


def _widened(weight: FakeQuant, bits: int, needed: Array) -> tuple[Array | None, Array]:
    """Return the factor by which each channel's range grows at a width (None: by nothing), and the ranges."""
    ranges, scale = weight.ranges(bits), weight.grid(bits).scale.astype(np.float64)
    least = needed if len(scale) == len(needed) else np.full(len(scale), needed.max(initial=0.0))
    factor = np.where(least > scale * _SLACK, least / scale, 1.0)
    if not (factor > 1.0).any():
        return None, ranges
    lost = (factor > 1.0) & (scale <= SMALLEST_SCALE)
    made = np.where(lost[:, None], _ranges_of(weight, bits, least), ranges * factor[:, None])
    return factor, made.astype(np.float32)


def _ranges_of(weight: FakeQuant, bits: int, scale: Array) -> Array:
    """Return ranges around zero with these scales, for channels whose raised scale tells nothing of the range.

    Args:
        weight: the weight's quantizer.
        bits: a width.
        scale: float64 [channels].
    """
    scheme, one = weight.scheme(bits), np.array([[-1.0, 1.0]], np.float32)
    unit = scheme.parameters(one, bits, weight.signed, weight.narrow)
    return np.asarray(one * (scale / float(unit.scale[0]))[:, None])
