"""Targets, cost models and executors: what a network costs and what it computes.

Names are handed out on first use.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

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
    "ConvShape": "qir.backends.cost_models.shape",
    "Cost": "qir.backends.cost_models.cost",
    "CostModel": "qir.backends.cost_models.base",
    "CostTable": "qir.backends.cost_table",
    "DelayTable": "qir.backends.delay_table",
    "RetrainProtocol": "qir.backends.retraining",
    "Target": "qir.backends.target",
    "fit": "qir.backends.fitting",
    "load_target": "qir.backends.target",
    "read_delay_table": "qir.backends.delay_table",
    "retrain": "qir.backends.module_retraining",
    "target_names": "qir.backends.target",
}

__all__ = sorted(_HOME)


def __getattr__(name: str) -> Any:
    home = _HOME.get(name)
    if home is None:
        raise AttributeError(f"module 'qir.backends' has no attribute {name!r}")
    return getattr(importlib.import_module(home), name)
