"""Which integers a step's sums can be, whatever codes its inputs are.

A sum is the bias plus weights times integers of a range. With `g` the greatest common divisor of a channel's weights
every sum is the smallest one plus a multiple of `g`. Whether each of those is really a sum is decided too: with the
weights ascending, they are if the next weight never exceeds `g` plus what the smaller ones reach together, as with
coins.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from qir.backends.integer.values import Grid
from qir.errors import QirError
from qir.graph import Value
from qir.ops import op_of
from qir.passes.analysis.arithmetic.accumulator import rows_by_channel
from qir.passes.exporting.guide.traced import Trace, TracedStep, TracedTensor
from qir.tensor import Array


@dataclass(frozen=True, eq=False)
class Reach:
    """The integers that the sums of each channel can be.

    Attributes:
        low, high: int64 [channels], both included.
        step: int64 [channels], at least 1: every sum is `low` plus a multiple of it.
        whole: bool [channels]: some codes of the inputs give each of these integers.
    """

    low: Array
    high: Array
    step: Array
    whole: Array

    @property
    def count(self) -> int:
        """How many integers there are, over all channels."""
        return int(((self.high - self.low) // self.step + 1).sum())

    @property
    def ends(self) -> tuple[int, int]:
        """The smallest and largest of all channels."""
        return int(self.low.min()), int(self.high.max())

    @property
    def bits(self) -> int:
        """Width of the two's complement integer that holds every sum."""
        low, high = self.ends
        return max(high, -low - 1, 0).bit_length() + 1

    def rows(self, part: slice) -> Reach:
        """Return some of the channels."""
        return Reach(self.low[part], self.high[part], self.step[part], self.whole[part])


def sums_of(trace: Trace, step: TracedStep) -> Reach | None:
    """Return the sums of a layer; None for steps that are none.

    Raises:
        QirError: the bias has not one integer a channel, or the weight is several matrices.
    """
    if op_of(step.node).quantizable(step.node) is None or len(step.inputs) < 2:
        return None
    data, weight = step.inputs[:2]
    if not isinstance(data, TracedTensor) or data.grid is None:
        return None
    if isinstance(weight, TracedTensor):
        return _of_activations(data, weight)
    return None if weight is None else _of_weight(trace, step, data, weight)


def codes_of(tensor: TracedTensor) -> Grid:
    """Return every code of a tensor on its grid: [codes]."""
    low, high = tensor.limits
    scale, zero = tensor.grid or (np.ones((), np.float32), np.zeros((), np.int32))
    return Grid(np.arange(low, high + 1, dtype=np.int32), scale, zero)


def _of_activations(first: TracedTensor, second: TracedTensor) -> Reach:
    ends = [codes_of(tensor).centred()[[0, -1]].astype(np.int64) for tensor in (first, second)]
    products = np.multiply.outer(*ends) * first.shape[-1]
    return Reach(*(np.asarray([value]) for value in (products.min(), products.max(), 1, False)))


def _of_weight(trace: Trace, step: TracedStep, data: TracedTensor, weight: Value) -> Reach:
    integers = trace.constants[weight].centred().astype(np.int64)
    if step.window is None and integers.ndim > 2 and integers[..., 0, 0].size > 1:
        raise QirError(f"node {step.node.label!r}: its weight holds {integers[..., 0, 0].size} matrices")
    rows = rows_by_channel(step.node, integers)
    low, high = (int(end) for end in codes_of(data).centred()[[0, -1]])
    whole, window = True, step.window
    scattered = step.node.op == "ConvTranspose"  # an element meets some taps of the kernel, never all
    if (scattered or (window is not None and any((*window.begin, *window.end)))) and not low <= 0 <= high:
        low, high, whole = min(low, 0), max(high, 0), False
    bias = np.zeros(1, np.int64) if step.bias is None else step.bias.astype(np.int64).reshape(-1)
    if bias.size not in (1, len(rows)):
        raise QirError(f"node {step.node.label!r}: its bias has {bias.size} integers for {len(rows)} channels")
    first, last = rows * low, rows * high
    least, most = np.minimum(first, last).sum(axis=1) + bias, np.maximum(first, last).sum(axis=1) + bias
    if scattered:
        least, most, whole = np.minimum(least, bias), np.maximum(most, bias), False
    divisor = np.maximum(np.gcd.reduce(rows, axis=1), 1)
    divisor = np.ones_like(divisor) if scattered else divisor
    return Reach(least, most, divisor, whole & _gapless(rows, divisor, high - low))


def _gapless(rows: Array, divisor: Array, span: int) -> Array:
    """Return whether every multiple of the divisor is a sum of weights times 0 to `span`: bool [channels]."""
    sizes = np.sort(np.abs(rows) // divisor[:, None], axis=1)
    smaller = np.cumsum(sizes, axis=1) - sizes
    return np.asarray((sizes <= 1 + span * smaller).all(axis=1))
