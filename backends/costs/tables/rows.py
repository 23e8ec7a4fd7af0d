"""Rows of a cost table: a node's terms, tensors and constants that are held, and why a cost is unknown."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from qir.backends.costs.layers.cost import Cost, combined
from qir.types import Dim

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class CostRow:
    """One term of a node's cost: its layer, or the traffic of one of its tensors.

    Attributes:
        name: layer name: the weight quantizer's name without `.weight`, else the node's name.
        op: op type.
        node: name of the node.
        activation, weight: quantizers of the operands, None where an operand is float or there is no weight.
        activation_widths, weight_widths: widths of the axes of `costs`.
        costs: [activation widths][weight widths]; None = illegal pair.
        known: False when the op or its shape is unknown: its cost is NaN.
        part: `product` of a layer, or the traffic of `result`, `operand`.
        step: position of the node among the costed nodes.
        reason: why the cost is unknown, and what makes it known.
    """

    name: str
    op: str
    node: str
    activation: str | None
    weight: str | None
    activation_widths: tuple[int, ...]
    weight_widths: tuple[int, ...]
    costs: tuple[tuple[Cost | None, ...], ...]
    known: bool = True
    part: str = "product"
    step: int = 0
    reason: str = ""

    def matrix(self, metric: str) -> Floats:
        """[activation widths, weight widths] of a metric; +inf = illegal, NaN = unknown."""
        if not self.known:
            return np.full((len(self.activation_widths), len(self.weight_widths)), np.nan)
        return np.array([[np.inf if cost is None else getattr(cost, metric) for cost in row] for row in self.costs])


@dataclass(frozen=True)
class NodeCost:
    """A node's cost at one policy: `node` is the layer's name."""

    node: str
    op: str
    activation_bits: int
    weight_bits: int | None
    cycles: float
    bound_by: str
    cost: Cost
    step: int = 0


@dataclass(frozen=True, slots=True)
class HeldTensor:
    """An activation in memory: from the step that writes it to the last step that reads it.

    Attributes:
        elements: of the tensor.
        quantizer: whose width it is stored at; None = float, `width` bits.
        width: stored bits of an element where there is no quantizer.
        first, last: steps.
    """

    elements: int
    quantizer: str | None
    width: int
    first: int
    last: int


@dataclass(frozen=True, slots=True)
class HeldWeight:
    """A constant of the network.

    Attributes:
        elements: of the constant.
        quantizer: whose width it is packed at; None = float, 32 bits.
        scales: float32 scales that are stored with it.
    """

    elements: int
    quantizer: str | None
    scales: int


@dataclass(frozen=True)
class NetworkFacts:
    """What reports need next to costs.

    Attributes:
        predecessors: step → steps whose results it reads.
        tensors: activations and when they live, in the file's order of nodes.
        weights: constants.
        notes: what was assumed.
        unsized: name of a tensor of unknown size → its quantizer.
        sizes: input whose sizes the network leaves open → the sizes that were taken.
    """

    predecessors: Mapping[int, frozenset[int]] = field(default_factory=dict)
    tensors: tuple[HeldTensor, ...] = ()
    weights: tuple[HeldWeight, ...] = ()
    notes: tuple[str, ...] = ()
    unsized: Mapping[str, str | None] = field(default_factory=dict)
    sizes: Mapping[str, tuple[Dim, ...]] = field(default_factory=dict)


def reasons_text(unknown: Mapping[str, str], form: str, most: int = 5) -> str:
    """Return why costs are unknown, nodes of one reason together.

    Args:
        unknown: node → reason.
        form: what is said of each reason, such as "the cost of {names} is unknown".
        most: nodes of a reason that are named.
    """
    by_reason: dict[str, list[str]] = {}
    for name, reason in unknown.items():
        by_reason.setdefault(reason, []).append(name)
    said = []
    for reason, names in by_reason.items():
        shown = ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")
        said.append(form.format(names=shown) + (f": {reason}" if reason else ""))
    return "; ".join(said)


def layer_cells(rows: Iterable[CostRow]) -> dict[tuple[int, int], Cost]:
    """(activation bits, weight bits) → cost of a layer's products, all at these widths; legal pairs only."""
    found: list[dict[tuple[int, int], Cost]] = [
        {
            (a, w): cost
            for a, line in zip(row.activation_widths, row.costs, strict=True)
            for w, cost in zip(row.weight_widths, line, strict=True)
            if cost is not None
        }
        for row in rows
        if row.part == "product"
    ]
    pairs = [pair for pair in found[0] if all(pair in cells for cells in found)] if found else []
    return {pair: combined(cells[pair] for cells in found) for pair in pairs}
