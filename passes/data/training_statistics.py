"""What a network saw while it was trained, as its first BatchNormalization remembers it, against what data give it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from qir.constants import array_of, is_standard, require_array
from qir.errors import QirError
from qir.graph import Node
from qir.module import Module
from qir.passes.data.batch_axes import BatchAxes
from qir.tensor import Array

FAR = 8.0
"""Spreads that differ by this factor are not of the same data."""

SHIFTED = 8.0
"""Means this many standard deviations from what was seen are not of the same data."""


@dataclass(frozen=True, slots=True)
class Shift:
    """How far what reaches the first normalization is from what the network saw.

    Attributes:
        node: name of the node.
        spread: median over channels of the data's standard deviation by the stored one.
        offset: median over channels of the distance of the means in stored standard deviations.
    """

    node: str
    spread: float
    offset: float

    @property
    def far(self) -> bool:
        """Whether the data cannot be what the network was trained on."""
        return self.spread > FAR or self.spread < 1 / FAR or self.offset > SHIFTED


def shift_from_training(module: Module, feed: Mapping[str, Array]) -> Shift | None:
    """Return how far data are from those of training.

    None for networks without a BatchNormalization, or that do not run.

    Args:
        module: float network, not folded.
        feed: some samples.
    """
    from qir.backends.execution.session import OrtSession

    node = next((node for node in module.graph if _remembers(node)), None)
    if node is None:
        return None
    mean, variance = (require_array(node.operand(index)) for index in (3, 4))
    value = node.operands[0]
    count, total, squares = 0, np.zeros(len(mean)), np.zeros(len(mean))
    try:
        session = None if value.is_input else OrtSession(_up_to(module, value.name))
        for part in BatchAxes(module).cut([dict(feed)], 1):
            found = part[value.name] if session is None else session.run(part)[value.name]
            if found.ndim < 2 or not np.isfinite(found).all():
                return None
            rows = np.moveaxis(found, 1, 0).reshape(found.shape[1], -1).astype(np.float64)
            count, total = count + rows.shape[1], total + rows.sum(axis=1)
            squares += np.einsum("cn,cn->c", rows, rows)
    except QirError:
        return None
    stored = np.sqrt(np.maximum(variance.astype(np.float64), 1e-12))
    lively = stored > 1e-3 * stored.max()  # channels that never say anything tell nothing
    centre = total / count
    spread = np.sqrt(np.maximum(squares / count - centre**2, 0))[lively] / stored[lively]
    offset = np.abs(centre - mean)[lively] / stored[lively]
    return Shift(node.name or value.name, float(np.median(spread)), float(np.median(offset)))


def _remembers(node: Node) -> bool:
    """Return whether a node normalizes by means and variances that it stores."""
    if not is_standard(node, "BatchNormalization"):
        return False
    return all(array_of(value) is not None for value in node.inputs[3:5])


def _up_to(module: Module, name: str) -> Module:
    """Return a copy whose one output is a value of the main graph, without what comes after it."""
    made = module.clone()
    made.graph.set_outputs([next(value for value in made.graph.values() if value.name == name)], [name])
    for node in reversed(made.graph.nodes):
        if not node.subgraphs() and not any(result.uses for result in node.results):
            made.graph.erase(node)
    for constant in made.graph.constants:
        if not constant.uses:
            made.graph.remove_constant(constant)
    return made
