"""Integer codes of weights and biases, and what they prove about a layer's sums."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from qir.errors import ExportError
from qir.fake_quant import FakeQuant
from qir.passes.analysis.accumulator_bounds import AccumulatorBounds, product_bounds, sum_bounds
from qir.passes.analysis.quantized_layers import QuantizedLayer
from qir.quantizers import kernels
from qir.quantizers.channels import quantize_channels
from qir.quantizers.multiples import integer_levels as integer_levels
from qir.quantizers.multiples import integer_step
from qir.tensor import Array


@dataclass(frozen=True, eq=False)
class Codes:
    """A weight as integers: value = (codes - zero_point) * scale along `axis`, or a scale a block.

    Attributes:
        values: int32, the weight's shape.
        scale: float32 [channels or 1].
        zero_point: int32 [channels or 1].
        low, high: smallest and largest code that the grid has.
    """

    values: Array
    scale: npt.NDArray[np.float32]
    zero_point: npt.NDArray[np.int32]
    low: int
    high: int

    def centred(self, axis: int | None) -> Array:
        """The codes less their zero points: int32, the weight's shape; not for blocks.

        Args:
            axis: axis of the channels, None for one zero point.
        """
        shape = kernels.channel_shape(self.values.shape, self.zero_point.size, axis)
        return np.asarray(self.values - self.zero_point.reshape(shape))


def float_weight(quantizer: FakeQuant) -> npt.NDArray[np.float32]:
    """The float values that a weight's quantizer reads.

    Raises:
        ExportError: they are computed.
    """
    constant = quantizer.source.constant
    if constant is None:
        raise ExportError(f"quantizer {quantizer.name!r}: its weight is not a constant: run fold-constants")
    return constant.numpy().astype(np.float32)


def weight_codes(quantizer: FakeQuant) -> Array:
    """The integer codes of a quantized weight: int32, the weight's shape; 1 bit has the codes -1 and +1."""
    return quantizer.codes(float_weight(quantizer))


def integer_codes(quantizer: FakeQuant) -> Codes | None:
    """A weight as integers times a scale per channel; None where its levels are not multiples of a step.

    Widths per channel become one tensor of codes, pruned channels zeros.
    """
    bits, axis = quantizer.bits, quantizer.granularity.axis
    if not isinstance(bits, int) and axis is not None:
        grids = quantizer.grids()
        if not all(grid.has_integer_codes for grid in grids.values()):
            return None
        codes, scale, zero = quantize_channels(float_weight(quantizer), grids, bits, axis)
        low = min((grid.low_code for grid in grids.values()), default=0)
        high = max((grid.high_code for grid in grids.values()), default=0)
        return Codes(codes, scale, zero, low, high)
    grid, codes = quantizer.grid(), weight_codes(quantizer)
    if grid.levels is None:
        return Codes(codes, grid.scale, grid.zero_point, grid.low_code, grid.high_code)
    multiples = integer_levels(grid)
    if multiples is None:
        return None
    table, stepped = multiples
    return Codes(table[codes - grid.low_code], stepped.scale, stepped.zero_point, int(table.min()), int(table.max()))


def bias_codes(layer: QuantizedLayer, product: Array | None = None) -> tuple[Array, Array]:
    """The codes of a layer's bias and their float32 scale s_x·s_w [channels or 1].

    Args:
        layer: a quantized layer with a constant bias.
        product: s_x·s_w [channels or 1] where the quantizers do not hold it.

    Returns:
        Codes [channels], int32, or int64 where int32 does not hold them (16-bit operands), and their scale.

    Raises:
        ExportError: a code does not fit int64 (the product of the scales underflows against the bias).
    """
    if layer.bias is None or layer.bias.constant is None:
        raise ExportError(f"layer {layer.name!r}: has no constant bias, so that there are no codes of one")
    if product is None:
        product = layer.data.grid().scale[0] * layer.weight.grid().scale
    values = layer.bias.constant.numpy().astype(np.float64)
    if values.ndim == 2 and len(values) == 1:  # Gemm takes [1, channels] too
        values = values[0]
    scale = product.astype(np.float32)
    codes = np.rint(values / scale)
    largest = np.abs(codes).max(initial=0)
    if not largest < 2**62:
        raise ExportError(
            f"layer {layer.name!r}: its bias (largest {np.abs(values).max():g}) exceeds int64 at scale s_x*s_w = "
            f"{scale.min():g}: run fit-bias after calibrate, or equalize the weights"
        )
    return codes.astype(np.int32 if largest < 2**31 else np.int64), scale


def proven_bounds(layer: QuantizedLayer) -> AccumulatorBounds | None:
    """The bounds that no accumulator of a layer can leave.

    None where an operand has a table of levels that are not multiples of a step, or a sum of unknown length.
    """
    if layer.weight_tensor is None:
        return product_bounds(layer)
    weight = integer_codes(layer.weight)
    if weight is None or integer_step(layer.data.grid()) is None:
        return None
    bias = integer_bias(layer)
    return sum_bounds(layer, weight.centred(layer.weight.granularity.axis), None if bias is None else bias[0])


def integer_bias(layer: QuantizedLayer) -> tuple[Array, Array] | None:
    """As `bias_codes`, in steps of the integers that the operands are; None without a bias or without integers."""
    weight, step = integer_codes(layer.weight), integer_step(layer.data.grid())
    if layer.bias is None or layer.bias.constant is None or weight is None or step is None:
        return None
    return bias_codes(layer, step[0] * weight.scale)
