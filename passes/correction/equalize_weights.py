"""Cross-layer equalization of weight ranges."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np

from qir.errors import PassError
from qir.graph import Graph, Node, Value
from qir.module import Module
from qir.passes.analysis.affine import Affine, Reject, Vector
from qir.passes.analysis.constants import array_of, erase, is_standard, uniform_value
from qir.passes.analysis.layers import layer_at
from qir.passes.analysis.linear_layer import PREACTIVATION, LinearLayer
from qir.passes.infrastructure.contract import Pass, PassContext


@dataclass(frozen=True)
class EqualizeWeights(Pass):
    """Give the channels between two layers weights of equal range, without changing what the network computes.

    For layers W1, W2 with a positively homogeneous function between them, channel i of W1 and of its bias is divided
    and input channel i of W2 multiplied by s_i = sqrt(r1_i * r2_i) / r2_i, r being the largest magnitudes, for all
    pairs in turn until the scales settle (Nagel et al., 2019, "Data-Free Quantization", equation 11). A value that
    several layers take is one pair with r2 their largest. ReLU6 and other clips are not homogeneous: pairs with one
    are left alone, and listed in `context.reports["equalize-weights"]` like every layer without a partner. With
    `relu6="relu"` the clips between the layers of a pair become Relu first, as the paper does for MobileNet; then the
    network computes the same only where no clip cut anything off.

    Attributes:
        rounds: largest number of sweeps over the pairs.
        tolerance: sweeps end when no scale changes by more than this fraction.
        relu6: what becomes of Clip(0, c) between two layers: `keep`, or `relu`.
    """

    name: ClassVar[str] = "equalize-weights"
    rounds: int = 20
    tolerance: float = 1e-3
    relu6: Literal["keep", "relu"] = "keep"

    def run(self, module: Module, context: PassContext) -> bool:
        """Equalize; True when a weight was written. Raises `PassError` when a weight is not finite."""
        left: dict[str, str] = {}
        relaxed = self.relu6 == "relu"
        pairs = [pair for graph in module.graphs for pair in find_pairs(graph, left, relaxed=relaxed)]
        changed = False
        for clip in [clip for pair in pairs for clip in pair.clips]:
            _to_relu(clip)
            changed = True
        context.reports[self.name] = left
        scales = self._scales(pairs)
        for pair, scale in zip(pairs, scales, strict=True):
            changed |= bool((scale != 1).any()) and rescale(pair, scale)
        return changed

    def _scales(self, pairs: list[Pair]) -> list[Vector]:
        """Return one divisor per channel and pair."""
        scales = [np.ones(pair.first.out_channels) for pair in pairs]
        ranges = _Ranges(pairs)
        for _ in range(self.rounds):
            largest = 0.0
            for index, pair in enumerate(pairs):
                step = ranges.balance(pair)
                scales[index] = scales[index] * step
                largest = max(largest, float(np.abs(step - 1).max(initial=0)))
            if largest <= self.tolerance:
                break
        return scales


@dataclass(frozen=True, eq=False)
class Pair:
    """A layer and the layers that take its output through positively homogeneous functions only.

    Attributes:
        first: the layer.
        seconds: the layers that take its output.
        clips: nodes Clip(0, c) in between, which are homogeneous only as Relu.
    """

    first: LinearLayer
    seconds: tuple[LinearLayer, ...]
    clips: tuple[Node, ...] = ()


class _Ranges:
    """Weights, as magnitudes, rescaled pair by pair."""

    def __init__(self, pairs: list[Pair]) -> None:
        self._layers: dict[Node, LinearLayer] = {}
        for pair in pairs:
            for layer in (pair.first, *pair.seconds):
                if layer.node in self._layers:
                    continue
                if not np.isfinite(layer.weight).all():
                    raise PassError(f"weight of layer {layer.name!r} holds NaN or infinities: repair the model first")
                made = self._layers[layer.node] = layer_of(layer.node)
                made.weight = np.abs(made.weight).astype(np.float32)

    def balance(self, pair: Pair) -> Vector:
        """Rescale one pair; the divisor of each channel."""
        first = self._layers[pair.first.node]
        seconds = [self._layers[layer.node] for layer in pair.seconds]
        one = first.output_magnitudes()
        two = np.max([layer.input_magnitudes() for layer in seconds], axis=0)
        alive = (one > 0) & (two > 0)
        step: Vector = np.sqrt(np.divide(one, two, out=np.ones_like(one), where=alive))
        first.weight = (first.weight / first.per_output(step)).astype(np.float32)
        for layer in seconds:
            layer.weight = (layer.weight * layer.per_input(step)).astype(np.float32)
        return step


def layer_of(node: Node) -> LinearLayer:
    """Return the linear layer that a node is; `PassError` when it is none."""
    layer = layer_at(node)
    if isinstance(layer, Reject):
        raise PassError(layer.reason)
    return layer


def rescale(pair: Pair, scale: Vector) -> bool:
    """Divide the output channels of the first layer and multiply the input channels of the others; True when done."""
    zeros = np.zeros_like(scale)
    first = layer_of(pair.first.node).after(Affine(1 / scale, zeros))
    if isinstance(first, Reject):
        return False
    first.apply()
    for second in pair.seconds:
        edit = layer_of(second.node).before(Affine(scale, zeros))
        if isinstance(edit, Reject):
            raise PassError(edit.reason)
        edit.apply()
    known = pair.first.node.meta.get(PREACTIVATION)
    if known is not None:
        pair.first.node.meta[PREACTIVATION] = (known[0] / scale, known[1] / scale)
    return True


def _to_relu(clip: Node) -> None:
    graph = clip.scope
    relu = Node("Relu", (clip.input(0),), name=clip.name)
    relu.result.type = clip.result.type
    graph.insert(relu, after=clip)
    clip.result.replace_all_uses_with(relu.result)
    erase(clip)


def find_pairs(graph: Graph, left: dict[str, str] | None = None, *, relaxed: bool = False) -> list[Pair]:
    """Return all pairs of a graph (not of its subgraphs).

    Args:
        graph: the graph.
        left: receives the layers without partner and the reason.
        relaxed: take Clip(0, c) for homogeneous, too.
    """
    found = []
    for node in graph:
        first = layer_at(node)
        if isinstance(first, Reject):
            continue
        clips: list[Node] | None = [] if relaxed else None
        seconds = _takers(first.result, first, clips)
        if not isinstance(seconds, Reject):
            found.append(Pair(first, tuple(seconds), tuple(clips or ())))
        elif left is not None:
            left[first.name] = seconds.reason
    return found


def _takers(value: Value, first: LinearLayer, clips: list[Node] | None) -> list[LinearLayer] | Reject:
    """Return the layers that take a value through homogeneous functions; a reason when something else does."""
    if not value.uses:
        return Reject("nothing uses its output")
    found: list[LinearLayer] = []
    for use in value.uses:
        node = use.node
        if node.is_return:
            return Reject("its output is a graph output")
        if node.graph is not first.node.graph:
            return Reject("its output is used in a subgraph")
        clip = clips is not None and _clips_at_zero(node)
        if use.index == 0 and (clip or is_homogeneous(node, first.axis)):
            more = _takers(node.result, first, clips)
            if isinstance(more, Reject):
                return more
            found += more
            if clips is not None and clip:
                clips.append(node)
            continue
        layer = layer_at(node)
        if isinstance(layer, Reject) or use.index != 0:
            return Reject(f"its output goes to {node.op} {node.name!r}")
        if layer.in_channels != first.out_channels or not _same_axis(first, layer):
            return Reject(f"its channels are not those of {layer.name!r}")
        found.append(layer)
    return found


def _same_axis(first: LinearLayer, second: LinearLayer) -> bool:
    if first.rank is not None and first.rank == second.rank:
        return first.axis == second.axis and not second.node.attribute("transA", 0)
    return False


def is_homogeneous(node: Node, axis: int) -> bool:
    """Return whether f(s x) = s f(x) for positive s per channel, channels staying on their axis.

    Args:
        node: the node that computes f.
        axis: channel axis of x, counted from the end; pooling runs over the last ones.
    """
    if is_standard(node, "Relu", "LeakyRelu", "Identity", "Dropout"):
        return True
    if is_standard(node, "MaxPool", "AveragePool", "GlobalAveragePool", "GlobalMaxPool"):
        return axis != -1
    if is_standard(node, "PRelu"):
        return array_of(node.input(1)) is not None
    return _clips_at_zero(node) and node.input(2) is None and "max" not in node.attributes


def _clips_at_zero(node: Node) -> bool:
    if not is_standard(node, "Clip"):
        return False
    low = node.attribute("min") if "min" in node.attributes else uniform_value(array_of(node.input(1)))
    return low == 0
