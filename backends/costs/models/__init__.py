"""Cost models by kind; one of another package is an entry point of the group `qir.cost_models`."""

from __future__ import annotations

from typing import Any

from qir.backends.costs.models.base import CostModel
from qir.errors import TargetError
from qir.registry import Registry

COST_MODELS: Registry[type[CostModel[Any]]] = Registry(
    "cost model",
    "qir.cost_models",
    {
        "bits": "qir.backends.costs.models.bits:Bits",
        "bit-serial": "qir.backends.costs.models.bit_serial:BitSerial",
        "bitfusion": "qir.backends.costs.models.bitfusion:BitFusion",
        "delay-table": "qir.backends.costs.models.delay_table:DelayTableModel",
        "micro-block": "qir.backends.costs.models.micro_block:MicroBlock",
        "roofline": "qir.backends.costs.models.roofline:Roofline",
        "serial": "qir.backends.costs.models.serial:Serial",
        "systolic": "qir.backends.costs.models.systolic:Systolic",
    },
    accepts=lambda found: isinstance(found, type) and issubclass(found, CostModel),
    expected="a subclass of qir.backends.CostModel",
    error=TargetError,
)
"""Kind of a cost model → its class."""
