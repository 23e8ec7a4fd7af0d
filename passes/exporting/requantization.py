"""Multipliers from sums to codes, in every arithmetic, and what makes them impossible.

The real multiplier of a channel is `s_x·s_w / s_y`; Add and Concat multiply each operand by `s_i / s_y`, Mul the
product by `s_a·s_b / s_y`, a mean divides by its count as well. `qir.backends.integer.requantization` defines
the arithmetics and executes them.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import prod

import numpy as np

from qir.backends.integer.ratios import Ratio, dyadic
from qir.backends.integer.requantization import LARGEST_SHIFT, Requantization
from qir.errors import ExportError
from qir.fake_quant import FakeQuant
from qir.graph import Graph, Node
from qir.ops import op_of
from qir.passes.analysis.quantized_layers import QuantizedLayer, output_quantizer, quantized_layers, sums_products
from qir.passes.lowering.parts.codes import Codes, integer_codes, integer_levels, proven_bounds
from qir.quantizers.parameters import SMALLEST_SCALE
from qir.tensor import Array
from qir.tracing import quantizer_of

_DEAD = 2.0**-32
"""Channels this much smaller than the largest of their weight carry nothing."""

ROUNDING: dict[Requantization, str] = {
    "float32": "rint(float32(sum) * float32 multiplier) + zero_point, half to even",
    "dyadic": "sum * mantissa / 2^shift rounded half to even of the exact quotient, + zero_point",
    "power-of-two": "sum * mantissa / 2^shift rounded half to even of the exact quotient, + zero_point",
}
"""What each arithmetic computes, in one line, for the guide."""


@dataclass(frozen=True, eq=False)
class Multipliers:
    """Multipliers of one or several operands.

    Attributes:
        float32: one array [channels] an operand: the scales multiplied and divided in float32.
        mantissa: one int64 array [channels] an operand, below 2^31; 0 where no sum reaches half a code.
        shift: int64 [channels], 0 to 62, common to the operands.
        exponent: `multiplier = 2^exponent`, one int64 array [channels] an operand; None unless all are powers of two.
        count: what a mean divides by; 1 elsewhere, None where windows differ.
    """

    float32: tuple[Array, ...]
    mantissa: tuple[Array, ...]
    shift: Array
    exponent: tuple[Array, ...] | None
    count: int | None = 1


@dataclass(frozen=True, slots=True)
class Rescaling:
    """A node without weights whose operands and result lie on grids of their own: Add, Mul, Concat, averages.

    Attributes:
        node: the node.
        operands: quantizers of its operands, in order.
        output: quantizer of its result.
    """

    node: Node
    operands: tuple[FakeQuant, ...]
    output: FakeQuant


def layer_multipliers(layer: QuantizedLayer) -> Multipliers | None:
    """The multipliers of a layer [channels or 1].

    None without an output grid, where values are not integers, or where a Gemm scales its sums.
    """
    if layer.output is None or not sums_products(layer.node):
        return None
    data, weight, output = (grid_scale(quantizer) for quantizer in (layer.data, layer.weight, layer.output))
    if data is None or weight is None or output is None:
        return None
    return _multipliers([(data[:1], weight)], output[0])


def rescalings(graph: Graph) -> Iterator[Rescaling]:
    """Every node without weights that rescales codes, in order."""
    for node in graph:
        facts = op_of(node)
        if facts.quantizable(node) is not None or not (facts.is_join or facts.is_average or node.op == "Mul"):
            continue
        count = 1 if facts.is_average else len(node.inputs)
        operands = [quantizer_of(value) for value in node.inputs[:count]]
        output = output_quantizer(node)
        if output is not None and all(quantizer is not None for quantizer in operands):
            yield Rescaling(node, tuple(q for q in operands if q is not None), output)


def rescaling_multipliers(found: Rescaling) -> Multipliers | None:
    """The multipliers of a rescaling node, one an operand (one of the product for Mul); None where there are none."""
    scales = [grid_scale(quantizer) for quantizer in (*found.operands, found.output)]
    if any(scale is None or scale.size != 1 for scale in scales):
        return None
    *operands, output = [scale for scale in scales if scale is not None]
    products = [tuple(operands)] if found.node.op == "Mul" else [(scale,) for scale in operands]
    count = _count(found.node) if op_of(found.node).is_average else 1
    return _multipliers(products, output[0], count)


def _multipliers(products: Sequence[tuple[Array, ...]], output: np.float32, count: int | None = 1) -> Multipliers:
    exact = [Ratio.of(scales, output) for scales in products]
    with np.errstate(over="ignore", under="ignore"):
        float32 = tuple(np.asarray(prod(scales) / output, np.float32) for scales in products)
    mantissas, shift = dyadic(*exact)
    vanishing = shift > LARGEST_SHIFT
    exponents = tuple(found for ratio in exact if (found := ratio.binary_exponents()) is not None)
    return Multipliers(
        float32,
        tuple(np.where(vanishing, 0, mantissa) for mantissa in mantissas),
        np.where(vanishing, 0, shift),
        exponents if len(exponents) == len(exact) else None,
        count,
    )


def _count(node: Node) -> int | None:
    """Elements of every window of an average; None where they differ or the size is unknown."""
    kernel = node.attribute("kernel_shape")
    if kernel is not None:
        whole = node.attribute("count_include_pad", 0) or not any(node.attribute("pads") or ())
        plain = not node.attribute("ceil_mode", 0) and node.attribute("auto_pad", "NOTSET") in ("NOTSET", "VALID")
        return prod(kernel) if whole and plain else None
    shape = node.operand(0).shape
    sizes = [size for size in shape[2:] if isinstance(size, int)] if shape else []
    return prod(sizes) if shape and len(sizes) == len(shape) - 2 and node.op == "GlobalAveragePool" else None


def grid_scale(quantizer: FakeQuant) -> Array | None:
    """float32 scale [channels or 1] of a quantizer whose values are integers times a scale, else None."""
    grid = integer_grid(quantizer)
    return None if grid is None else grid.scale


def integer_grid(quantizer: FakeQuant) -> Codes | None:
    """The codes of a weight, or the code range of an activation (`values` empty), as integers times a scale.

    None where levels are not multiples of a step.
    """
    if quantizer.is_weight:
        return integer_codes(quantizer)
    if not isinstance(quantizer.bits, int):
        return None
    grid = quantizer.grid()
    if grid.levels is not None:
        found = integer_levels(grid)
        if found is None:
            return None
        grid = found[1]
    return Codes(np.zeros(0, np.int32), grid.scale, grid.zero_point, grid.low_code, grid.high_code)


def check_requantization(graph: Graph, kind: Requantization = "float32", accumulator_bits: int | None = None) -> None:
    """Refuse what no integer arithmetic can compute, before anything is written.

    Args:
        graph: network with calibrated fake-quant nodes.
        kind: the target's arithmetic.
        accumulator_bits: width of the target's sums; None = no target names one.

    Raises:
        ExportError: a scale underflowed so that a tensor vanished, a multiplier is not finite or 2^31 or more, a sum
            can leave the accumulator, or a ratio of scales is not a power of two where the target asks for it. The
            message names the layer or quantizer and what to do.
    """
    for node in graph.fake_quants():
        _check_underflow(FakeQuant(node))
    for layer in quantized_layers(graph):
        _check_multipliers(layer.name, layer_multipliers(layer), kind)
        bounds = proven_bounds(layer)
        if bounds is not None and accumulator_bits is not None and bounds.bits > accumulator_bits:
            raise ExportError(
                f"layer {layer.name!r}: its sums can reach {bounds.low} to {bounds.high}, {bounds.bits} bits, and "
                f"leave the target's {accumulator_bits}-bit accumulator: use fewer bits for its weights or input"
            )
    for found in rescalings(graph):
        _check_multipliers(found.node.name or found.node.result.name, rescaling_multipliers(found), kind)


def _check_underflow(quantizer: FakeQuant) -> None:
    """A scale raised to the smallest one that float32 products allow leaves no codes but zero.

    Channels that carry nothing next to the others of their weight may: BatchNorm with a vanishing gain leaves such.
    """
    if not isinstance(quantizer.bits, int):
        return
    parameters, source = quantizer.grid(), quantizer.source.constant
    raised = parameters.scale <= SMALLEST_SCALE
    if not raised.any() or not parameters.has_integer_codes:
        return
    if source is not None:
        axis = quantizer.granularity.axis
        rows = source.numpy().reshape(1, -1) if axis is None else np.moveaxis(source.numpy(), axis, 0)
        largest = np.abs(rows.reshape(len(rows), -1)).max(axis=1, initial=0)
        raised = raised & (largest > _DEAD * largest.max(initial=0)) & (largest < SMALLEST_SCALE)
    if raised.any():
        raise ExportError(
            f"quantizer {quantizer.name!r}: the scale of channel {int(np.argmax(raised))} underflows (below "
            f"{SMALLEST_SCALE:g}), so that all its values become zero: run fit-bias or equalize-weights, or rescale it"
        )


def _check_multipliers(name: str, found: Multipliers | None, kind: Requantization) -> None:
    if found is None:
        return
    for factor in found.float32:
        if not np.isfinite(factor).all() or (factor >= 2.0**31).any():
            raise ExportError(
                f"layer {name!r}: its requantization multiplier {float(factor.max()):g} leaves 31 bits: its output's "
                "range is far too narrow; calibrate it with data of the network's own scale"
            )
    if kind == "power-of-two" and found.exponent is None:
        raise ExportError(
            f"layer {name!r}: its ratio of scales {float(found.float32[0].reshape(-1)[0]):g} is not a power of two: "
            "run power-of-two-scales after calibrate, or let the target requantize with dyadic multipliers"
        )
