"""What an activation between a layer and its quantizer does to the codes."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from qir.graph import Node
from qir.passes.analysis.quantized_layers import activation_bounds


def bounded_codes(activations: Iterable[Node], scale: float, zero_point: int, low: int, high: int) -> tuple[int, int]:
    """The smallest and largest code after Relu and Clip nodes: rounding keeps order, so bounds pass through it.

    Args:
        activations: Relu and Clip nodes in front of the quantizer.
        scale: scale of the quantizer, rounded to float32.
        zero_point: of the quantizer.
        low: smallest code of the quantizer.
        high: largest code of the quantizer.
    """
    for node in activations:
        bounds = activation_bounds(node)
        first, last = (
            int(np.clip(np.rint(np.float32(bound) / np.float32(scale)) + zero_point, low, high)) for bound in bounds
        )
        low, high = first, last
    return low, high
