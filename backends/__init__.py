"""Targets, cost models and executors: what a network costs and what it computes.

Names are handed out on first use.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from qir.lazy import names_of

if __name__ != "qir.backends":
    raise ImportError(f"import this package as qir.backends, not as {__name__}")

if TYPE_CHECKING:
    from qir.backends.cost_models.base import CostModel as CostModel
    from qir.backends.cost_models.cost import Cost as Cost
    from qir.backends.cost_models.shape import ConvShape as ConvShape
    from qir.backends.cost_table import CostTable as CostTable
    from qir.backends.delay_table import DelayTable as DelayTable
    from qir.backends.delay_table import read_delay_table as read_delay_table
    from qir.backends.fitting import fit as fit
    from qir.backends.module_retraining import retrain as retrain
    from qir.backends.retraining import RetrainProtocol as RetrainProtocol
    from qir.backends.target import Target as Target
    from qir.backends.target import load_target as load_target
    from qir.backends.target import target_names as target_names

_HOME = {
    "ConvShape": "cost_models.shape",
    "Cost": "cost_models.cost",
    "CostModel": "cost_models.base",
    "CostTable": "cost_table",
    "DelayTable": "delay_table",
    "RetrainProtocol": "retraining",
    "Target": "target",
    "fit": "fitting",
    "load_target": "target",
    "read_delay_table": "delay_table",
    "retrain": "module_retraining",
    "target_names": "target",
}

__all__ = sorted(_HOME)

__getattr__, __dir__ = names_of(__name__, _HOME)
