"""From sums to codes: multipliers of a step, and the arithmetic in words."""

from __future__ import annotations

import numpy as np

from qir.backends.integer.ratios import Ratio, dyadic
from qir.backends.integer.requantization import LARGEST_SHIFT, Requantization
from qir.backends.integer.values import Pending
from qir.graph import Node
from qir.guide_network import MultiplierGuide
from qir.ops import op_of
from qir.passes.exporting.guide.traced import TracedOutput, TracedStep
from qir.passes.exporting.guide.weights_file import WeightsFile
from qir.tensor import Array

EXACT = "sum of integers * mantissa / (2^shift * count), rounded half to even of the exact quotient, + zero_point"
ROUNDING = {
    "Add": "rint(fma(a, m_a, fma(b, m_b, zero_point - fma(m_a, zero_a, m_b * zero_b)))) in float32, a and b codes",
    "Mul": "rint(float32(product) * multiplier + zero_point) in float32",
    "AveragePool": (
        "rint(mean / scale + zero_point), mean = sum of (code - zero) * scale of the window's elements one after "
        "another / count, in float32"
    ),
}
"""The float32 arithmetic of operators that have their own."""

PRODUCT = "rint(float32(sum) * multiplier) + zero_point in float32"
RESCALED = "rint((code - zero) * its scale / scale) + zero_point in float32"


def multiplier(
    step: TracedStep, output: TracedOutput, pending: Pending, weights: WeightsFile, differs: int | None
) -> MultiplierGuide:
    """Return what turns the sums of a step into codes of one of its results.

    Args:
        step: the step.
        output: the result.
        pending: the sums that are not codes yet.
        weights: file that takes what is long.
        differs: at how many of all integers the dyadic codes are not those of float32, where that is known.
    """
    scale, terms = output.tensor.scale, pending.terms()
    exact = [Ratio.of(term.scales, scale) for term in terms]
    mantissas, shift = dyadic(*exact)
    gone, shape = shift > LARGEST_SHIFT, shift.shape
    exponents = [found for ratio in exact if (found := ratio.binary_exponents()) is not None]
    powers = len(exponents) == len(exact)
    count = np.asarray(terms[0].count)
    if count.size and (count == count.reshape(-1)[0]).all():
        count = count.reshape(-1)[:1]
    numbers = weights.numbers
    float32 = None
    if _multiplies(step.node):
        lines = (_float32(term.factor, scale, step.node, count) for term in terms)
        float32 = [numbers(np.broadcast_to(line, shape)) for line in lines]
    return MultiplierGuide(
        float32=float32,
        mantissa=[numbers(np.where(gone, 0, mantissa)) for mantissa in mantissas],
        shift=numbers(np.where(gone, 0, shift)),
        exponent=[numbers(np.broadcast_to(line, shape)) for line in exponents] if powers else None,
        shape=list(shape),
        count=numbers(count),
        count_shape=list(count.shape),
        float32_differs=differs,
    )


def rounding(step: TracedStep, kind: Requantization) -> str:
    """Return the formula from sums to codes in words; empty where a step has no sums."""
    if all(output.pending is None for output in step.outputs):
        return ""
    if kind != "float32":
        return EXACT
    return ROUNDING.get(step.node.op, PRODUCT if _multiplies(step.node) else RESCALED)


def _multiplies(node: Node) -> bool:
    """Return whether the float32 arithmetic multiplies by ratios of scales.

    Means and joins divide values by a scale.
    """
    facts = op_of(node)
    whole = facts.is_average and node.attribute("kernel_shape") is None
    return facts.quantizable(node) is not None or whole or node.op in ("Add", "Mul")


def _float32(product: Array, scale: np.float32, node: Node, count: Array) -> Array:
    """Return the multiplier in the float32 steps of ONNX Runtime's kernels.

    A mean over the image divides by its count too.
    """
    with np.errstate(over="ignore", under="ignore"):
        if op_of(node).is_average and node.attribute("kernel_shape") is None:
            return np.asarray(product / np.float32(scale * np.float32(count.reshape(-1)[0])), np.float32)
        return np.asarray(product / scale, np.float32)
