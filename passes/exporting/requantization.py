"""What makes it impossible to requantize a network on integers, refused before anything is written."""

from __future__ import annotations

import numpy as np

from qir.backends.integer.requantization import Requantization
from qir.errors import ExportError
from qir.fake_quant import FakeQuant
from qir.passes.analysis.arithmetic.multipliers import Multipliers
from qir.passes.analysis.arithmetic.network import NetworkArithmetic
from qir.passes.analysis.arithmetic.quantizer import QuantizerArithmetic
from qir.quantizers.parameters import SMALLEST_SCALE

_DEAD = 2.0**-32
"""Channels this much smaller than the largest of their weight carry nothing."""

ROUNDING: dict[Requantization, str] = {
    "float32": "rint(float32(sum) * float32 multiplier) + zero_point, half to even",
    "dyadic": "sum * mantissa / 2^shift rounded half to even of the exact quotient, + zero_point",
    "power-of-two": "sum * mantissa / 2^shift rounded half to even of the exact quotient, + zero_point",
}
"""What each arithmetic computes, in one line, for the guide."""


def check_requantization(
    arithmetic: NetworkArithmetic, kind: Requantization = "float32", accumulator_bits: int | None = None
) -> None:
    """Refuse what no integer arithmetic can compute, before anything is written.

    Args:
        arithmetic: the record of a network with calibrated fake-quant nodes.
        kind: the target's arithmetic.
        accumulator_bits: width of the target's sums; None = no target names one.

    Raises:
        ExportError: a scale underflowed so that a tensor vanished, a multiplier is not finite or 2^31 or more, a sum
            can leave the accumulator, or a ratio of scales is not a power of two where the target asks for it. The
            message names the layer or quantizer and what to do.
    """
    for node in arithmetic.graph.fake_quants():
        _check_underflow(arithmetic.quantizer(FakeQuant(node)))
    for layer in arithmetic.layers:
        _check_multipliers(layer.name, layer.multipliers, kind)
        bounds = layer.bounds
        if bounds is not None and accumulator_bits is not None and bounds.bits > accumulator_bits:
            raise ExportError(
                f"layer {layer.name!r}: its sums can reach {bounds.low} to {bounds.high}, {bounds.bits} bits, and "
                f"leave the target's {accumulator_bits}-bit accumulator: use fewer bits for its weights or input"
            )
    for found in arithmetic.rescalings():
        _check_multipliers(found.node.label, found.multipliers, kind)


def _check_underflow(record: QuantizerArithmetic) -> None:
    """Check that a scale raised to the smallest one that float32 products allow leaves codes other than zero.

    Channels that carry nothing next to the others of their weight may: BatchNorm with a vanishing gain leaves such.
    """
    quantizer = record.quantizer
    if not isinstance(quantizer.bits, int):
        return
    parameters, source = record.grid, quantizer.source.constant
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
