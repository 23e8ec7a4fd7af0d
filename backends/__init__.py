"""Targets, cost models and executors: what a network costs and what it computes.

Names are handed out on first use.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from qir.support.lazy import names_of

if __name__ != "qir.backends":
    raise ImportError(f"import this package as qir.backends, not as {__name__}")

if TYPE_CHECKING:
    from qir.backends.costs.building.builder import cost_table as cost_table
    from qir.backends.costs.fitting import fit as fit
    from qir.backends.costs.layers.cost import Cost as Cost
    from qir.backends.costs.layers.shape import ConvShape as ConvShape
    from qir.backends.costs.models.base import CostModel as CostModel
    from qir.backends.costs.tables.delay_files import DelayTable as DelayTable
    from qir.backends.costs.tables.delay_files import read_delay_table as read_delay_table
    from qir.backends.costs.tables.table import CostTable as CostTable
    from qir.backends.costs.target import Target as Target
    from qir.backends.costs.target import as_target as as_target
    from qir.backends.costs.target import load_target as load_target
    from qir.backends.costs.target import target_names as target_names
    from qir.backends.training.loop import RetrainProtocol as RetrainProtocol
    from qir.backends.training.retrain import retrain as retrain

_HOME = {
    "ConvShape": "costs.layers.shape",
    "Cost": "costs.layers.cost",
    "CostModel": "costs.models.base",
    "CostTable": "costs.tables.table",
    "DelayTable": "costs.tables.delay_files",
    "RetrainProtocol": "training.loop",
    "Target": "costs.target",
    "as_target": "costs.target",
    "cost_table": "costs.building.builder",
    "fit": "costs.fitting",
    "load_target": "costs.target",
    "read_delay_table": "costs.tables.delay_files",
    "retrain": "training.retrain",
    "target_names": "costs.target",
}

__all__ = sorted(_HOME)

__getattr__, __dir__ = names_of(__name__, _HOME)
