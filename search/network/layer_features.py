"""What a learning searcher sees of each decision of a network: the state vectors of HAQ, ReLeQ and Wang et al."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import prod

import numpy as np
import numpy.typing as npt

from qir.backends.costs.layers.layer_shapes import layer_names, layer_shape
from qir.backends.costs.tables.rows import NodeCost
from qir.backends.costs.tables.table import CostTable
from qir.graph import Node
from qir.module import Module
from qir.passes.analysis.quantized_layers import QuantizedLayer, quantized_layers
from qir.passes.constraints.propagate_constraints import BitConstraints

Floats = npt.NDArray[np.float64]


def layer_features(
    module: Module, constraints: BitConstraints, table: CostTable, deciders: Mapping[str, str | None]
) -> Floats:
    """[decisions, 12], on scales that do not depend on the network.

    Of the layers whose operands follow the decision: whether the first is depthwise, log2 of its input and output
    channels, stride, log2 of its kernel and input sizes and of all their weights (HAQ, section 3.1), standard deviation
    of its weights over their largest magnitude (Wang et al., 2024, section 3.2; ReLeQ, table 1), their share of the
    network's cycles at the widest policy and whether compute bounds the first there (hardware feedback), the decision's
    position, and whether it decides a weight.

    Args:
        module: calibrated network.
        constraints: its decisions.
        table: cost of every node on the target.
        deciders: quantizer → the decision that its width follows from, or None.
    """
    widest = constraints.complete({name: constraints.options[name][-1] for name in constraints.decisions})
    costs, names = {cost.node: cost for cost in table.rows(widest)}, layer_names(module.graph)
    layers: dict[str, list[QuantizedLayer]] = {name: [] for name in constraints.decisions}
    weights: set[str] = set()
    for layer in quantized_layers(module.graph):
        weights.add(layer.weight.name)
        for decision in {deciders[layer.data.name], deciders[layer.weight.name]} - {None}:
            layers[str(decision)].append(layer)
    rows = [
        [*_of_layers(found, names, costs), index / len(layers), float(name in weights)]
        for index, (name, found) in enumerate(layers.items())
    ]
    return np.array(rows, np.float64)


def _of_layers(
    layers: Sequence[QuantizedLayer], names: Mapping[Node, str], costs: Mapping[str, NodeCost]
) -> list[float]:
    known = [costs[names[layer.node]] for layer in layers if names[layer.node] in costs]
    total = sum(cost.cycles for cost in costs.values())
    share = sum(cost.cycles for cost in known) / total if total else 0.0
    return [*_shape(layers), share, float(bool(known) and known[0].bound_by == "compute")]


def _shape(layers: Sequence[QuantizedLayer]) -> list[float]:
    found = layer_shape(layers[0].node) if layers else None
    if found is None:
        return [0.0] * 8
    shape = found[0]
    tensors = [layer.weight_tensor for layer in layers if layer.weight_tensor is not None]
    weight = tensors[0].numpy() if tensors else np.zeros(1)
    return [
        float(shape.groups == shape.in_channels > 1),
        np.log2(shape.in_channels) / 16,
        np.log2(shape.out_channels) / 16,
        max(shape.stride) / 4,
        np.log2(prod(shape.kernel)) / 16,
        np.log2(shape.height * shape.width) / 16,
        np.log2(sum(tensor.size for tensor in tensors) + 1) / 32,
        float(weight.std()) / (float(np.abs(weight).max()) or 1.0),
    ]
