"""Cost models by kind: those shipped, and those that other packages declare as entry points `qir.cost_models`."""

from __future__ import annotations

import importlib
from importlib.metadata import entry_points
from typing import TYPE_CHECKING, Any

from qir.errors import TargetError

if TYPE_CHECKING:
    from qir.backends.costs.models.base import CostModel

ENTRY_POINT_GROUP = "qir.cost_models"

_SHIPPED = {
    "bit-serial": "qir.backends.costs.models.bit_serial:BitSerial",
    "bitfusion": "qir.backends.costs.models.bitfusion:BitFusion",
    "delay-table": "qir.backends.costs.models.delay_table:DelayTableModel",
    "micro-block": "qir.backends.costs.models.micro_block:MicroBlock",
    "roofline": "qir.backends.costs.models.roofline:Roofline",
    "serial": "qir.backends.costs.models.serial:Serial",
    "systolic": "qir.backends.costs.models.systolic:Systolic",
}


def cost_model_kinds() -> list[str]:
    """Names of all kinds of cost models that are installed."""
    return sorted({*_SHIPPED, *(point.name for point in entry_points(group=ENTRY_POINT_GROUP))})


def cost_model_type(kind: str) -> type[CostModel[Any]]:
    """The class of a kind of cost model.

    Raises:
        TargetError: no such kind; names the nearest.
    """
    from qir.backends.costs.layers.validation import nearest

    if kind in _SHIPPED:
        module, _, name = _SHIPPED[kind].partition(":")
        found: type[CostModel[Any]] = getattr(importlib.import_module(module), name)
        return found
    for point in entry_points(group=ENTRY_POINT_GROUP, name=kind):
        loaded: type[CostModel[Any]] = point.load()
        return loaded
    raise TargetError(f"cost model {kind!r} is unknown: {nearest(kind, cost_model_kinds())}")
