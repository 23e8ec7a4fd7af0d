"""Whether every arithmetic gives a step's result the codes of float32, for all integers that its sums can be."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial

import numpy as np

from qir.errors import QirError
from qir.ops import op_of
from qir.passes.exporting.guide.differences import Arithmetic, Differences, differences
from qir.passes.exporting.guide.pairs import operand_codes, pair_differences, rescaling_differences, uncertain_means
from qir.passes.exporting.guide.reach import Reach, codes_of, sums_of
from qir.passes.exporting.guide.requantizing import of_global_means, of_numbers, of_sums, of_thresholds, quotient
from qir.passes.exporting.guide.traced import Trace, TracedOutput, TracedStep, TracedTensor
from qir.tensor import Array


@dataclass(frozen=True, eq=False)
class Numbers:
    """What a guide gives for a result.

    Attributes:
        mantissas: int64 [channels or 1] of every operand.
        shift: int64 [channels or 1].
        thresholds: int64 [channels or 1, codes - 1], and `low_code`; None where there are none.
        low_code: the code below the first threshold.
    """

    mantissas: list[Array]
    shift: Array
    thresholds: Array | None = None
    low_code: int = 0


@dataclass(frozen=True)
class Decision:
    """What holds of a result, whatever the network's inputs are.

    Attributes:
        sums: smallest and largest sum, bias included; None for steps that add no products.
        bits: width of the two's complement integer that holds every sum.
        integers: how many integers, or pairs of codes, were decided.
        differences: where codes differ from those of `float32`, by arithmetic: `dyadic`, and with a guide `guide` (its
            mantissas and shift in 64-bit steps, as exported C computes) and `thresholds`.
        undecided: what is not proven, and why; empty where everything is.
    """

    sums: tuple[int, int] | None = None
    bits: int | None = None
    integers: int = 0
    differences: dict[str, Differences] = field(default_factory=dict)
    undecided: str = ""


def decide(trace: Trace, step: TracedStep, output: TracedOutput, numbers: Numbers | None = None) -> Decision:
    """Return what holds of a result that is requantized.

    Args:
        trace: the record of the network.
        step: the step.
        output: one of its results, whose codes wait for their grid.
        numbers: what a guide says of it.
    """
    try:
        return _decide(trace, step, output, numbers)
    except QirError as error:
        return Decision(undecided=str(error))


def _decide(trace: Trace, step: TracedStep, output: TracedOutput, numbers: Numbers | None) -> Decision:
    reach, op = sums_of(trace, step), step.node.op
    if reach is not None:
        return _of_sums(reach, output, of_sums(output, "float32"), of_sums(output, "dyadic"), numbers)
    if op_of(step.node).is_average:
        return _of_means(step, output, numbers)
    if op in ("Add", "Mul") and len(step.inputs) == 2:
        operands = [operand_codes(trace, operand) for operand in step.inputs]
        guide = None if numbers is None else partial(_by_numbers, numbers, output, slice(None))
        found, count = pair_differences(op, operands, output, guide)
    else:
        tensors = [operand for operand in step.inputs if isinstance(operand, TracedTensor)]
        found, count = rescaling_differences(tensors, output, _by_operand(numbers, tensors, step, output))
    return Decision(integers=count, differences=found)


def _of_means(step: TracedStep, output: TracedOutput, numbers: Numbers | None) -> Decision:
    (operand,) = (operand for operand in step.inputs[:1] if isinstance(operand, TracedTensor))
    if step.node.attribute("kernel_shape") is not None:
        count, close = uncertain_means(operand, output)
        why = f"float32 adds a window in its own order: {close:,} of {count:,} sums lie within its error of a tie"
        return Decision(integers=count - close, undecided=why if close else "")
    elements = int(np.prod(operand.shape[2:]))
    low, high = (int(end) * elements for end in codes_of(operand).centred()[[0, -1]])
    reach = Reach(*(np.asarray([value]) for value in (low, high, 1, True)))
    exact, dyadic = of_global_means(output, "float32"), of_global_means(output, "dyadic")
    return _of_sums(reach, output, exact, dyadic, numbers, elements)


def _of_sums(
    reach: Reach,
    output: TracedOutput,
    float32: Arithmetic,
    dyadic: Arithmetic,
    numbers: Numbers | None,
    count: int = 1,
) -> Decision:
    others = {"dyadic": dyadic}
    if numbers is not None:
        others["guide"] = of_numbers(output, numbers.mantissas[0], numbers.shift, count)
    if numbers is not None and numbers.thresholds is not None:
        others["thresholds"] = of_thresholds(numbers.thresholds, numbers.low_code)
    found = differences(float32, others, reach, output.clamp or output.tensor.limits)
    return Decision(reach.ends, reach.bits, reach.count, found)


def _by_numbers(numbers: Numbers, output: TracedOutput, channels: slice, integers: Sequence[Array]) -> Array:
    return quotient(integers, [line[channels] for line in numbers.mantissas], numbers.shift[channels], output)


def _by_operand(
    numbers: Numbers | None, tensors: Sequence[TracedTensor], step: TracedStep, output: TracedOutput
) -> list[Callable[[Sequence[Array]], Array]]:
    """Return the guide's arithmetic of every operand of a join, each with the multiplier of its first channel."""
    if numbers is None:
        return []
    if numbers.shift.size == 1:
        return [partial(_by_numbers, numbers, output, slice(None))]
    axis = int(step.node.attribute("axis", 0))
    starts = np.cumsum([0, *(tensor.shape[axis] for tensor in tensors)])[:-1]
    return [partial(_by_numbers, numbers, output, slice(int(start), int(start) + 1)) for start in starts]
