"""What a quantized layer computes on integers: sums, their step, bias and bounds, and the multipliers to codes."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

from qir.errors import QirError
from qir.passes.analysis.arithmetic.accumulator import AccumulatorBounds, SumRange, product_sums, weighted_sums
from qir.passes.analysis.arithmetic.codes import BiasCodes, bias_codes
from qir.passes.analysis.arithmetic.multipliers import Multipliers
from qir.passes.analysis.arithmetic.quantizer import QuantizerArithmetic
from qir.passes.analysis.quantized_layers import QuantizedLayer, activation_bounds, sums_products


@dataclass(frozen=True, eq=False)
class LayerArithmetic:
    """The arithmetic of a quantized layer; each fact is computed when it is first read.

    Attributes:
        layer: the layer.
        data, weight: arithmetic of its operands.
        output: arithmetic of its result's quantizer, None where it has none.
    """

    layer: QuantizedLayer
    data: QuantizerArithmetic
    weight: QuantizerArithmetic
    output: QuantizerArithmetic | None

    @staticmethod
    def of(layer: QuantizedLayer) -> LayerArithmetic:
        """Return the arithmetic of a layer alone."""
        output = None if layer.output is None else QuantizerArithmetic(layer.output)
        return LayerArithmetic(layer, QuantizerArithmetic(layer.data), QuantizerArithmetic(layer.weight), output)

    @property
    def name(self) -> str:
        """The layer's name."""
        return self.layer.name

    @cached_property
    def product(self) -> npt.NDArray[np.float32] | None:
        """s_x·s_w, what one step of a sum is worth: float32 [channels or 1].

        None where an operand is not integers times a scale.
        """
        data, weight = self.data.scale, self.weight.scale
        return None if data is None or weight is None else (data[0] * weight).astype(np.float32)

    @cached_property
    def bias(self) -> BiasCodes | None:
        """The bias in steps of the sums; None without a constant bias or without integers.

        Raises:
            ExportError: a code does not fit int64.
        """
        bias = self.layer.bias
        if bias is None or bias.constant is None or self.product is None:
            return None
        return bias_codes(self.name, bias.constant.numpy(), self.product)

    @cached_property
    def sums(self) -> SumRange | None:
        """The range of the sums of products, the bias left out.

        None where an operand has a table of levels that are not multiples of a step, or a sum of unknown length.
        """
        if self.layer.weight_tensor is None:
            return product_sums(self.layer, self.data.grid, self.weight.grid)
        codes, data = self.weight.codes, self.data.integers
        if codes is None or data is None:
            return None
        return weighted_sums(self.layer.node, codes.centred(self.weight.quantizer.granularity.axis), data)

    @cached_property
    def bounds(self) -> AccumulatorBounds | None:
        """The bounds that no accumulator can leave, the bias included; None as `sums`."""
        return None if self.sums is None else self.sums.bounds(None if self.bias is None else self.bias.values)

    @cached_property
    def multipliers(self) -> Multipliers | None:
        """The multipliers from sums to codes [channels or 1].

        None without an output grid, where values are not integers, or where a Gemm scales its sums.
        """
        if self.output is None or not sums_products(self.layer.node):
            return None
        data, weight, output = self.data.scale, self.weight.scale, self.output.scale
        if data is None or weight is None or output is None:
            return None
        return Multipliers.of([(data[:1], weight)], output[0])

    @cached_property
    def clamp(self) -> tuple[int, int]:
        """Lowest and highest output code, the layer's activations (Relu, Clip) included.

        A bound becomes a code as ONNX Runtime's fused kernels make it: rint(bound / scale) + zero point in float32.

        Raises:
            QirError: the layer has no output quantizer.
        """
        if self.output is None:
            raise QirError(f"layer {self.name!r}: has no output quantizer, so that no code bounds its result")
        grid, value = self.output.grid, self.layer.node.result
        scale, zero = np.float32(grid.scale[0]), int(grid.zero_point[0])
        low, high = grid.low_code, grid.high_code
        while (user := value.users[0]) is not self.output.quantizer.node:
            bounds = [np.rint(np.float32(bound) / scale) + zero for bound in activation_bounds(user)]
            low, high = int(np.clip(bounds[0], low, high)), int(np.clip(bounds[1], low, high))
            value = user.result
        return low, high
