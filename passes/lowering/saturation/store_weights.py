"""Element types of 8-bit codes: int8, or uint8 with zero point 128 where a kernel could saturate.

The values and the kernels that ONNX Runtime fuses are the same; x86 CPUs without VNNI add products of unsigned by
unsigned bytes exactly (`qir.passes.lowering.saturation.layers`).
"""

from __future__ import annotations

from qir.backends.execution.saturation import WeightStorage
from qir.fake_quant import FakeQuant
from qir.passes.analysis.quantized_layers import QuantizedLayer
from qir.passes.lowering.holdings import Holding, Legalization
from qir.passes.lowering.saturation.layers import planned
from qir.types import DType


def store_weights(found: Legalization, weights: WeightStorage) -> None:
    """Choose the element types in `found.holdings`; every quantizer has one, whatever layers read it.

    Signed activations are read as unsigned by ONNX Runtime's default session on x86, and kernels for signed activations
    take signed weights only: where a weight after one has to be uint8, or one is the second operand of a product that
    could saturate, all signed activations are uint8 too.

    Args:
        found: what `legalize` found; its profile tells whether there is uint8.
        weights: how codes of weights are stored.
    """
    if weights == "int8" or "uint8" not in found.profile.weights:
        return
    every = [record.layer for record in found.arithmetic.layers]
    layers = [layer for layer in every if _saturates(layer, found)]
    if any(layer.weight_tensor is None or _held(layer, found)[0].container is DType.INT8 for layer in layers):
        for quantizer in map(FakeQuant, found.arithmetic.graph.fake_quants()):
            if not quantizer.is_weight and _is_signed(found.holdings[quantizer.name]):
                found.holdings[quantizer.name] = found.holdings[quantizer.name].unsigned()
    for layer in every if weights == "uint8" else layers:
        data, weight = _held(layer, found)
        if (data.container, weight.container) == (DType.UINT8, DType.INT8) and layer.weight_tensor is not None:
            found.holdings[layer.weight.name] = weight.unsigned()


def _held(layer: QuantizedLayer, found: Legalization) -> tuple[Holding, Holding]:
    return found.holdings[layer.data.name], found.holdings[layer.weight.name]


def _is_signed(holding: Holding) -> bool:
    """Return whether QuantizeLinear makes int8 codes."""
    return holding.container is DType.INT8 and holding.form == "affine" and holding.grid is not None


def _saturates(layer: QuantizedLayer, found: Legalization) -> bool:
    """Return whether an int8 weight can saturate with its activations, those too that can become unsigned."""
    data, weight = _held(layer, found)
    unsigned = data.unsigned() if _is_signed(data) else data
    if (unsigned.container, weight.container) != (DType.UINT8, DType.INT8):
        return False
    return planned(layer, unsigned.stored(), weight.stored())
