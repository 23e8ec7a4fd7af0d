"""Scores of layers as sensitivities of quantizers: shared by metrics that look at what a layer computes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch

from qir.passes.analysis.quantized_layers import quantized_layers
from qir.passes.constraints.propagate_constraints import BitConstraints
from qir.search.metrics.operands import float_operands, measured_quantizers, noise_to_signal_of
from qir.search.problem.sensitivity import Sensitivity

if TYPE_CHECKING:
    from qir.backends.torch.module import TorchModule
    from qir.graph import Node


def layer_results(network: TorchModule, batch: torch.Tensor) -> dict[Node, torch.Tensor]:
    """Return what every quantized layer computes before its activation function, in graph order: one forward pass."""
    layers = {layer.node for layer in quantized_layers(network.graph)}
    found: dict[Node, torch.Tensor] = {}

    def keep(node: Node, result: Any) -> Any:
        if node in layers:
            found[node] = result.detach()
        return result

    with torch.no_grad():
        network(batch, hook=keep)
    return found


def scored(
    metric: str,
    network: TorchModule,
    constraints: BitConstraints,
    batch: torch.Tensor,
    scores: Mapping[Node, float],
    passes: int,
) -> Sensitivity:
    """Score of a layer times the noise-to-signal ratio of its operands; the ratio is from one more forward pass.

    A quantizer belongs to the layer that reads it; one that no layer reads, to the last layer before it.
    """
    quantized = measured_quantizers(network, constraints)
    operands, _ = float_operands(network, quantized, batch)
    ratios = noise_to_signal_of(quantized, operands, constraints)
    owner = _owners(network, scores)
    return Sensitivity(metric, {key: ratio * scores[owner[key[0]]] for key, ratio in ratios.items()}, passes + 1)


def _owners(network: TorchModule, scores: Mapping[Node, float]) -> dict[str, Node]:
    owners: dict[str, Node] = {}
    last = next(iter(scores))
    for node in network.graph:
        if node in scores:
            last = node
        elif node.is_fake_quant:
            owners[node.name] = last
    for layer in reversed(list(quantized_layers(network.graph))):
        owners[layer.data.name] = owners[layer.weight.name] = layer.node
    return owners
