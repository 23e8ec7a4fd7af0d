"""The cost of every node of a network at every width, and of N policies in one vectorised call."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from math import prod
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from qir.backends.cost_models.cost import Cost
from qir.backends.layer_shapes import layer_shape, shape_of
from qir.errors import TargetError
from qir.fake_quant import bits_of, quantizers
from qir.graph import Node
from qir.module import Module
from qir.ops import op_of
from qir.policy import Bits
from qir.tracing import quantizer_of

if TYPE_CHECKING:
    from qir.backends.cost_models.base import CostModel

Floats = npt.NDArray[np.float64]
METRICS = ("cycles", "energy_pj", "total_bytes", "bit_operations")
"""Additive columns of a table: attributes of `Cost`."""


@dataclass(frozen=True)
class CostRow:
    """One costed node.

    Attributes:
        name: layer name: the weight quantizer's name without `.weight`, else the node's name.
        op: op type.
        node: name of the node.
        activation, weight: quantizers of the operands, None where an operand is float or there is no weight.
        activation_widths, weight_widths: widths of the axes of `costs`.
        costs: [activation widths][weight widths]; None = illegal pair.
        known: False when the op or its shape is unknown: its cost is NaN.
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


class CostTable:
    """Costs of a network on a target.

    Attributes:
        rows: costed nodes in graph order; nodes that fuse into their producer are not among them.
        unknown: names of nodes whose cost is unknown.
        widths: candidate widths of every quantizer.
    """

    def __init__(self, rows: Sequence[CostRow], widths: Mapping[str, tuple[int, ...]], target: str) -> None:
        self.rows_ = tuple(rows)
        self.widths = dict(widths)
        self.target = target
        self.unknown = tuple(row.name for row in rows if not row.known)

    def __iter__(self) -> Any:
        return iter(self.rows_)

    def __len__(self) -> int:
        return len(self.rows_)

    @cached_property
    def _names(self) -> dict[str, int]:
        return {name: column for column, name in enumerate(self.widths)}

    def rows(self, policy: Mapping[str, Bits]) -> list[NodeCost]:
        """The cost of every known node at a policy.

        Raises:
            TargetError: a pair of widths is illegal on the target.
        """
        found = []
        for row in self.rows_:
            if not row.known:
                continue
            first, second = self._position(row, policy)
            cost = row.costs[first][second]
            if cost is None:
                raise TargetError(
                    f"node {row.name!r}: target {self.target!r} cannot multiply {row.activation_widths[first]}-bit "
                    f"activations by {row.weight_widths[second]}-bit weights"
                )
            weight_bits = row.weight_widths[second] if row.weight is not None else None
            found.append(NodeCost(row.name, row.op, row.activation_widths[first], weight_bits, cost.cycles, cost.bound_by, cost))
        return found

    def _position(self, row: CostRow, policy: Mapping[str, Bits]) -> tuple[int, int]:
        return _index(row.activation, row.activation_widths, policy), _index(row.weight, row.weight_widths, policy)

    def cost(self, policies: Sequence[Mapping[str, Bits]], metric: str = "cycles", *, unknown: str = "raise") -> Floats:
        """The metric's total of every policy: float64 [policies]; +inf where a pair is illegal.

        Args:
            policies: bits by name of quantizer.
            metric: `cycles`, `energy_pj`, `total_bytes` or `bit_operations`.
            unknown: `raise`, or `ignore` to leave out nodes of unknown cost.

        Raises:
            TargetError: a node's cost is unknown, a quantizer is missing, or a width is no candidate.
        """
        codes = np.array([[self._code(name, policy) for name in self.widths] for policy in policies], np.intp)
        return self.cost_codes(codes, metric, unknown=unknown)

    def cost_codes(self, codes: npt.NDArray[np.intp], metric: str = "cycles", *, unknown: str = "raise") -> Floats:
        """As `cost`, for indices into the quantizers' widths: [policies, quantizers in the order of `widths`]."""
        if self.unknown and unknown != "ignore":
            raise TargetError(f"the cost of {', '.join(self.unknown[:5])} is unknown: give shapes, or unknown='ignore'")
        total = np.zeros(len(codes))
        for row in self.rows_:
            if row.known:
                matrix = row.matrix(metric)
                first = 0 if row.activation is None else codes[:, self._names[row.activation]]
                second = 0 if row.weight is None else codes[:, self._names[row.weight]]
                total += matrix[first, second]
        return total

    def _code(self, name: str, policy: Mapping[str, Bits]) -> int:
        return _index(name, self.widths[name], policy)


def _index(name: str | None, widths: tuple[int, ...], policy: Mapping[str, Bits]) -> int:
    if name is None:
        return 0
    bits = policy.get(name)
    if bits not in widths:
        raise TargetError(f"quantizer {name!r} has {bits} bits; the table holds {list(widths)}")
    return widths.index(bits)  # type: ignore[arg-type]


def build_table(module: Module, model: CostModel[Any], *, batch: int = 1) -> CostTable:
    """The table of a module's main graph.

    Args:
        module: network with fake-quant nodes; without them every layer is costed at every legal pair.
        model: the cost model.
        batch: size of an unknown first dimension.
    """
    widths = {name: tuple(node.attribute("widths")) for name, node in quantizers(module.graph).items()}
    rows = [_row(node, model, batch) for node in module.graph if _is_costed(node, model)]
    return CostTable(rows, widths, model.target.name)


def _is_costed(node: Node, model: CostModel[Any]) -> bool:
    if node.is_fake_quant:
        return False
    if op_of(node).quantizable(node) is not None:
        return True
    return node.op not in model.target.fused_ops and not op_of(node).is_view


def _row(node: Node, model: CostModel[Any], batch: int) -> CostRow:
    operands = op_of(node).quantizable(node)
    if operands is None:
        return _stream_row(node, model, batch)
    data, weight = quantizer_of(node.input(operands.data)), quantizer_of(node.input(operands.weight))
    activation_widths = tuple(data.attribute("widths")) if data is not None else (model.target.activation_widths[-1],)
    weight_widths = tuple(weight.attribute("widths")) if weight is not None else (model.target.weight_widths[-1],)
    name = weight.name.removesuffix(".weight") if weight is not None else node.name
    shape = layer_shape(node, batch)
    if shape is None:
        nothing = tuple(tuple(None for _ in weight_widths) for _ in activation_widths)
        return CostRow(name, node.op, node.name, _name(data), _name(weight), activation_widths, weight_widths, nothing, known=False)
    rules = model.target.operand_rules()
    costs = tuple(
        tuple(
            model.matrix_cost(shape, w, a) if rules.allows(a, w, node.op) else None for w in weight_widths
        )
        for a in activation_widths
    )
    return CostRow(name, node.op, node.name, _name(data), _name(weight), activation_widths, weight_widths, costs)


def _stream_row(node: Node, model: CostModel[Any], batch: int) -> CostRow:
    """Element-wise and pooling ops: what they read and write passes through the outermost memory."""
    source = quantizer_of(node.input(0))
    widths = tuple(source.attribute("widths")) if source is not None else (32,)
    sizes = [shape_of(value, batch) for value in (node.input(0), node.results[0])]
    label = node.name or node.op
    if any(size is None for size in sizes):
        return CostRow(label, node.op, node.name, _name(source), None, widths, (0,), tuple((None,) for _ in widths), known=False)
    elements = sum(prod(size) for size in sizes if size is not None)
    costs = tuple((model.stream_cost(elements, bits),) for bits in widths)
    return CostRow(label, node.op, node.name, _name(source), None, widths, (0,), costs)


def _name(node: Node | None) -> str | None:
    return None if node is None else node.name


def widest(module: Module) -> dict[str, Bits]:
    """The bits that the graph holds now."""
    return {name: bits_of(node) for name, node in quantizers(module.graph).items()}
