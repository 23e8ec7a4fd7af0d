"""Channel-wise affine correction: a gain and an offset per output channel of every layer.

After fake-quantization each layer's pre-activations differ from the float network's by a part that is affine per
channel. One pass over some images, layer after layer, fits gain and offset by least squares; each layer sees inputs
that are corrected already. Samples may come batch by batch: a layer's moments are those of all batches so far, so that
memory holds one batch. Gain folds into the weight's scale (codes stay), offset into the bias, so the exported
network pays nothing. It generalises bias correction (Nagel et al., 2019, section 4.2), which is gain 1.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from qir.backends.execution.interpreter import Interpreter
from qir.graph import Node, Value
from qir.module import Module
from qir.ops import op_of
from qir.support.progress import advance
from qir.tensor import Array
from qir.tracing import quantizer_of

LARGEST_GAIN = 4.0
"""Gains stay between 1/4 and 4: a channel that needs more carries no signal at this width."""

_DEAD = 1e-12
"""A channel whose variance is below this is constant, and keeps its gain."""

_BLOCK = 1 << 20
"""Elements whose moments are taken at a time: temporaries of a whole layer cost more than its convolution."""


@dataclass(frozen=True, slots=True)
class Correctable:
    """What of a layer's result can be corrected without cost.

    Attributes:
        axis: axis of the result that is the output channel: 1 of a convolution, the last of a matrix product.
        gain: the weight has a range per output channel, which takes the gain, and no other layer reads it.
        offset: the layer has a bias operand, or an Add of a constant after it, which takes the offset.
    """

    axis: int
    gain: bool
    offset: bool


def correctable(node: Node) -> Correctable | None:
    """Return what of a layer can be corrected; None when nothing can, as in products of two activations."""
    operands = op_of(node).quantizable(node)
    weight = None if operands is None else quantizer_of(node.input(operands.weight))
    constant = None if weight is None else weight.source.constant
    if operands is None or weight is None or constant is None:
        return None
    per_channel = operands.weight_axis is not None and weight.granularity.axis == operands.weight_axis
    per_channel = per_channel and _reads_alone(node, operands.weight)
    offset = operands.bias is not None or bias_add(node) is not None
    return Correctable(1 if len(constant.shape) > 2 else -1, per_channel, offset) if per_channel or offset else None


def _reads_alone(node: Node, index: int) -> bool:
    """Return whether nothing else reads the constant that an operand comes from."""
    value = node.input(index)
    while value is not None and len(value.uses) == 1:
        if value.producer is None:
            return True
        value = value.producer.input(0)
    return False


def bias_add(node: Node) -> tuple[Node, int] | None:
    """Return the Add of a constant vector that alone reads a layer's result, and the index of the vector."""
    users = node.result.users
    if len(users) != 1 or not (op_of(users[0]).is_join and op_of(users[0]).is_elementwise):
        return None
    index = 1 if users[0].operands[0] is node.result else 0
    constant = users[0].operands[index].constant
    return (users[0], index) if constant is not None and len(constant.shape) == 1 else None


def fit_affine(
    module: Module, layers: Sequence[Node], feeds: Iterable[Mapping[str, Array]], *, gain: bool = True
) -> dict[Node, tuple[Array, Array]]:
    """Fit gain and offset of layers at the network's bits to what the float network computes.

    Args:
        module: calibrated network; not changed.
        layers: nodes that `correctable` lets have one.
        feeds: batches of samples, arrays by the name of the network's inputs; one at a time is held.
        gain: fit the gain too; without, it is 1 (bias correction).

    Returns:
        Layer → gain and offset, float32 [channels].

    Raises:
        QirError: a node cannot be computed, or a quantizer is not calibrated.
    """
    network, forms = Interpreter(module), {node: correctable(node) for node in layers}
    terms: dict[Node, tuple[Array, Array]] = {}
    moments: dict[Node, Moments] = {}
    reference: dict[Value, Array] = {}

    def fit(node: Node, result: Array) -> Array:
        form = forms.get(node)
        if form is None or not (form.offset or (form.gain and gain)):
            return result
        form = Correctable(form.axis, form.gain and gain, form.offset)
        found = Moments.of(result, reference[node.result], form.axis)
        moments[node] = moments[node].joined(found) if node in moments else found
        terms[node] = slope, offset = moments[node].terms(form)
        shape = [1] * result.ndim
        shape[form.axis] = -1
        return np.asarray(result * slope.reshape(shape) + offset.reshape(shape), result.dtype)

    for number, feed in enumerate(feeds):
        reference.clear()
        reference |= network.run(feed, on={}, keep=[node.result for node in layers])
        network.run(feed, hook=fit)
        advance(number + 1, 0)
    return terms


@dataclass(frozen=True, eq=False)
class Moments:
    """Means and centred sums of a layer's results and of the float network's, float64 [channels] each.

    Attributes:
        rows: values of each channel.
        mean: of the results.
        aim: mean of the float network's.
        squares: sum of (result - mean)².
        products: sum of (result - mean)·(float - aim).
    """

    rows: int
    mean: Array
    aim: Array
    squares: Array
    products: Array

    @classmethod
    def of(cls, found: Array, wanted: Array, axis: int) -> Moments:
        """Return the moments of one batch, part by part.

        Args:
            found: results of a quantized layer, float32.
            wanted: those of the float network, of the same shape.
            axis: of the channels.
        """
        channels = found.shape[axis]
        rows = max(found.size // max(channels, 1), 1)
        mean, aim = (_channel_sums(x, axis) / rows for x in (found, wanted))
        shape = [1] * found.ndim
        shape[axis] = -1
        centre, goal = (x.reshape(shape).astype(np.float32) for x in (mean, aim))
        squares, products = np.zeros(channels), np.zeros(channels)
        samples = max(_BLOCK * len(found) // max(found.size, 1), 1)
        for start in range(0, len(found), samples):
            part = found[start : start + samples] - centre
            products += _channel_sums(part * (wanted[start : start + samples] - goal), axis)
            squares += _channel_sums(np.square(part, out=part), axis)
        return cls(rows, mean, aim, squares, products)

    def joined(self, other: Moments) -> Moments:
        """Return the moments of both batches (Chan, Golub and LeVeque, 1979, "Updating formulae", equation 2.1)."""
        rows = self.rows + other.rows
        share = other.rows / rows
        apart, off, between = other.mean - self.mean, other.aim - self.aim, self.rows * share
        return Moments(
            rows,
            self.mean + apart * share,
            self.aim + off * share,
            self.squares + other.squares + apart**2 * between,
            self.products + other.products + apart * off * between,
        )

    def terms(self, form: Correctable) -> tuple[Array, Array]:
        """Return gain and offset with the least ‖gain · found + offset - wanted‖² per channel, float32 [channels].

        A term that is not free is 1 or 0.
        """
        variance, covariance = self.squares / self.rows, self.products / self.rows
        if not form.offset:
            variance, covariance = variance + self.mean**2, covariance + self.mean * self.aim
        slope = covariance / np.maximum(variance, _DEAD)
        dead = (variance < _DEAD) | (slope <= 0)
        slope = np.clip(slope, 1 / LARGEST_GAIN, LARGEST_GAIN)
        slope[dead | (not form.gain)] = 1.0
        offset = self.aim - slope * self.mean if form.offset else np.zeros_like(slope)
        return slope.astype(np.float32), offset.astype(np.float32)


def _channel_sums(x: Array, axis: int) -> Array:
    """Return the sum of each channel: float64 [channels]; within an image in float32, pairwise."""
    if axis % x.ndim == x.ndim - 1:
        return np.asarray(x.reshape(-1, x.shape[-1]).sum(0, dtype=np.float64))
    return np.asarray(x.reshape(*x.shape[:2], -1).sum(2).sum(0, dtype=np.float64))
