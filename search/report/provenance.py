"""Where a quantized network comes from: model, target, budgets, data, settings, versions and date."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from importlib.metadata import version
from typing import Any

import qir
from qir.search.problem.parts import Budget


def provenance(
    *,
    model: str,
    sha256: str,
    target: str,
    budgets: Mapping[str, Budget],
    splits: Mapping[str, str],
    settings: Mapping[str, Any],
) -> dict[str, Any]:
    """Return the record as plain data.

    Args:
        model: name of the float network's file.
        sha256: its hash, empty for a network that has no file.
        target: name of the hardware.
        budgets: limits by name of cost.
        splits: what each split is called, by what it serves for.
        settings: options of the quantization, by name.
    """
    return {
        "model": model,
        "model sha256": sha256,
        "target": target,
        "budgets": {name: _limit(budget) for name, budget in budgets.items()},
        "splits": dict(splits),
        "settings": dict(settings),
        "versions": {"qir": qir.__version__, **{name: version(name) for name in ("onnxruntime", "numpy")}},
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def _limit(budget: Budget) -> str:
    reference = f" {budget.reference}" if isinstance(budget.reference, str) else ""
    return f"{budget.maximum:g}" if budget.ratio is None else f"{budget.ratio:g}x{reference}"
