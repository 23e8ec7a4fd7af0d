"""What thresholds do not tell: marks on the nodes of the profile `finn-thresholds`, so that a file can be read back."""

from __future__ import annotations

import json
from typing import Any

import numpy as np

from qir.fake_quant import FakeQuant
from qir.graph import Node
from qir.passes.analysis.arithmetic.codes import Codes
from qir.passes.analysis.quantized_layers import QuantizedLayer, activation_bounds
from qir.passes.lowering.parts.marks import entry_of
from qir.tensor import Array

ACTIVATION = "qir.activation"
"""Key in the metadata of a MultiThreshold: its quantizer, and the activations that its thresholds include."""

LAYER = "qir.layer"
"""Key in the metadata of a layer on codes: its op, weight quantizer, scales and bias."""


def mark_activation(made: Node, quantizer: FakeQuant, layer: QuantizedLayer | None) -> None:
    """Write on a MultiThreshold what it stands for.

    Args:
        made: the MultiThreshold.
        quantizer: the quantizer, still in the graph.
        layer: the layer whose sums it takes, None for real values.
    """
    activations: list[list[Any]] = []
    value = None if layer is None else layer.node.result
    while value is not None and (user := value.users[0]) is not quantizer.node:
        bounds = [None if np.isinf(bound) else bound for bound in activation_bounds(user)]
        activations.append([user.op] if len(user.inputs) == 1 else [user.op, *bounds])
        value = user.result
    made.metadata[ACTIVATION] = _text({"quantizer": entry_of(quantizer), "activations": activations})


def mark_layer(
    made: Node, layer: QuantizedLayer, codes: Codes, bias: Array | None, *, turned: bool, index: int
) -> None:
    """Write on a layer of codes what it stands for.

    Args:
        made: the layer.
        layer: the layer it was made from, its quantizers still in the graph.
        codes: the weight as integers.
        bias: int32 codes of the bias, or None.
        turned: whether the weight was transposed.
        index: the weight's operand.
    """
    entry = {
        "op": layer.node.op,
        "attributes": {name: attribute.python() for name, attribute in layer.node.attributes.items()},
        "weight": entry_of(layer.weight),
        "scale": codes.scale.tolist(),
        "bias": None if bias is None else bias.reshape(-1).tolist(),
        "turned": turned,
        "weight_index": index,
    }
    made.metadata[LAYER] = _text(entry)


def _text(entry: dict[str, Any]) -> str:
    return json.dumps(entry, sort_keys=True, separators=(",", ":"))
