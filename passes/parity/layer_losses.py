"""What each layer of an exported network loses against the float network: noise at its codes that its operands lack."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from qir.backends.integer.reference import QUANTIZE
from qir.graph import Node, Value
from qir.module import Module
from qir.passes.parity.executors import default_engine, executor, holds_qonnx
from qir.passes.parity.layers import LayerParity, code_values
from qir.passes.parity.noise import FloatNetwork
from qir.tensor import Array


@dataclass(frozen=True)
class LayerLoss:
    """The noise of one tensor of codes.

    Attributes:
        node: name of the node whose result is quantized.
        sqnr: signal to quantization noise ratio of its codes, in decibels.
        before: the least ratio of the codes that it is computed from; None for a quantized input.
    """

    node: str
    sqnr: float
    before: float | None

    def __str__(self) -> str:
        before = "" if self.before is None else f" from {self.before:.1f}"
        return f"{self.node} ({self.sqnr:.1f} dB{before})"

    @property
    def added(self) -> float:
        """Noise to signal ratio (of squares) at the codes, less the largest one of its operands."""
        return _noise(self.sqnr) - (0.0 if self.before is None else _noise(self.before))


def layer_losses(quantized: Module, original: Module, feed: Mapping[str, Array]) -> list[LayerLoss]:
    """Return the layers of an exported network by the noise that they add, most first; empty for a file without codes.

    Args:
        quantized: exported network.
        original: float network.
        feed: one batch of samples.

    Raises:
        QirError: ONNX Runtime does not load one of the networks, or the samples do not fit.
    """
    codes = code_values(quantized)
    if holds_qonnx(quantized) or not codes:
        return []
    layers = [LayerParity(value.name, _label(node), "", "", False) for node, value in codes.items()]
    floats = FloatNetwork(original, quantized, layers)
    floats.add(executor(default_engine(quantized), quantized, codes=True).run(feed), feed)
    floats.finish()
    ratios = {layer.value: layer.sqnr for layer in layers if layer.sqnr is not None}
    operands = _operands(quantized, codes)
    losses = []
    for layer in layers:
        if layer.value in ratios:
            before = [ratios[name] for name in operands[layer.value] if name in ratios]
            losses.append(LayerLoss(layer.node, ratios[layer.value], min(before, default=None)))
    return sorted(losses, key=lambda loss: -loss.added)


def _label(node: Node) -> str:
    """Return the node that makes the values, in front of the QuantizeLinear that makes codes of them."""
    made = node.operands[0].producer if node.op == QUANTIZE else node
    return (node if made is None else made).label


def _operands(module: Module, codes: Mapping[Node, Value]) -> dict[str, frozenset[str]]:
    """Return the codes that each tensor of codes is computed from, nearest first.

    Those with no other codes in between.
    """
    reach: dict[Value, frozenset[str]] = {}
    found = {}
    for node in module.graph:
        above = frozenset().union(*(reach.get(value, frozenset()) for value in node.operands))
        if node in codes:
            found[codes[node].name] = above
            above = frozenset({codes[node].name})
        reach.update(dict.fromkeys(node.results, above))
    return found


def _noise(decibels: float) -> float:
    return float(10 ** (-decibels / 10))
