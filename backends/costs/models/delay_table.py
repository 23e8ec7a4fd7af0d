"""Delay tables: the latency of each layer at each pair of widths, measured by whoever owns the hardware.

Three layouts are read and written: CSV (`layer,weight_bits,activation_bits,delay`), JSON (`qir.delay-table`), and
HAQ's `.npy` (int64 [layers, 8, 8], indexed [layer, weight bits - 1, activation bits - 1], layers in order).
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field

from qir.backends.costs.layers.cost import Cost
from qir.backends.costs.layers.shape import ConvShape
from qir.backends.costs.layers.validation import Strict
from qir.backends.costs.models.base import CostModel
from qir.backends.costs.tables.delay_files import DelayTable, read_delay_table
from qir.errors import TargetError
from qir.support.nearest import nearest

if TYPE_CHECKING:
    from qir.backends.costs.hardware import Hardware
    from qir.backends.costs.layers.layer_shapes import LayerProduct


class DelayTableParameters(Strict):
    """Parameters of a delay table.

    Attributes:
        file: CSV, JSON or .npy, relative to the target's file.
        cycles_per_unit: cycles in one unit of the file; 1 when the file holds cycles.
        others: what nodes without multiply-accumulates cost, where the table does not list them (with 0 weight bits):
            `zero` (their time is part of the listed layers) or `stream` (their tensors pass through the outermost
            memory).
        missing: layers with multiply-accumulates that the table does not list: `refuse` the table, or report their
            cost as `unknown`.
    """

    file: str = Field(min_length=1)
    cycles_per_unit: float = Field(default=1.0, gt=0)
    others: Literal["zero", "stream"] = "zero"
    missing: Literal["refuse", "unknown"] = "refuse"


class DelayTableModel(CostModel[DelayTableParameters]):
    """Looks layers up by name; a table without names holds the layers of multiply-accumulates in order."""

    kind: ClassVar[str] = "delay-table"
    parameters_type: ClassVar[type[Strict]] = DelayTableParameters
    notes: ClassVar[tuple[str, ...]] = ("delay table: energy and traffic are not known",)

    def __init__(self, target: Hardware) -> None:
        super().__init__(target)
        self._table: DelayTable | None = None
        self._order: list[str] = []

    @property
    def delays(self) -> DelayTable:
        """The table, read on first use."""
        if self._table is None:
            if not Path(self.parameters.file).exists():
                raise TargetError(
                    f"target {self.target.name!r}: its delay table {self.parameters.file} is not there: "
                    f"{self.target.description}"
                )
            self._table = read_delay_table(self.parameters.file)
        return self._table

    def matrix_cost(self, shape: ConvShape, weight_bits: int, activation_bits: int) -> Cost:  # noqa: ARG002
        """Refuse a bare layer, which has no name.

        Raises:
            TargetError: always; a delay table answers for the layers of its network only.
        """
        raise TargetError(
            f"target {self.target.name!r}: a delay table knows layers by name, not by shape ({shape}): "
            "cost a network, or choose a target with a model"
        )

    def named_cost(self, name: str, product: LayerProduct, weight_bits: int, activation_bits: int) -> Cost:
        """Return the product's share of the delay that the table holds for its layer, in cycles."""
        key = name
        if not self.delays.named:
            if name not in self._order:
                self._order.append(name)
            key = str(self._order.index(name))
        delay = self.delays.at(key, weight_bits, activation_bits) * self.parameters.cycles_per_unit * product.share
        bit_operations = float(product.copies * product.shape.macs * weight_bits * activation_bits)
        return Cost(cycles=delay, compute_cycles=delay, bit_operations=bit_operations, bound_by="measured")

    def knows(self, name: str) -> bool:
        """Return whether the table lists a layer; those of a table without names are listed by their order."""
        return not self.delays.named or name in self.delays.layers

    def node_cost(self, name: str, bits: int) -> Cost | None:
        """Return the delay of a node that is listed with 0 weight bits, at the next width listed (else the widest)."""
        cells = self.delays.delays.get(name, {}) if self.delays.named else {}
        widths = sorted(activation_bits for weight_bits, activation_bits in cells if weight_bits == 0)
        if not widths:
            return None
        width = next((width for width in widths if width >= bits), widths[-1])
        delay = cells[0, width] * self.parameters.cycles_per_unit
        return Cost(cycles=delay, compute_cycles=delay, bound_by="measured")

    def stream_cost(self, elements: int, bits: int) -> Cost:
        """Nothing, or the time on the outermost memory, as the parameter `others` says."""
        if self.parameters.others == "stream":
            return super().stream_cost(elements, bits)
        return Cost(cycles=0.0, compute_cycles=0.0, bound_by="not in the table")

    def prepare(self, layers: Sequence[str], others: Sequence[str]) -> None:
        """Refuse a table that misses a layer of the network, or holds nodes that the network does not have.

        Raises:
            TargetError: names the layers and the nearest that are there.
        """
        self._order = list(layers)
        held = self.delays
        where = f"delay table {self.parameters.file}"
        if not held.named:
            if len(held.layers) != len(layers):
                raise TargetError(
                    f"{where}: {len(held.layers)} layers; the network has {len(layers)}: {', '.join(layers[:4])}, ..."
                )
            return
        for name in layers:
            if name not in held.delays and self.parameters.missing == "refuse":
                raise TargetError(f"{where}: layer {name!r} is missing: {nearest(name, held.layers)}")
        known = {*layers, *others}
        for name in held.layers:
            if name not in known:
                raise TargetError(f"{where}: the network has no layer {name!r}: {nearest(name, layers)}")
