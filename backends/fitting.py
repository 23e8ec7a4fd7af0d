"""Fit a cost model's free parameters to measurements of the user's own hardware."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from qir.backends.cost_models.validation import nearest
from qir.backends.delay_table import DelayTable, delays_of, read_delay_table
from qir.backends.layer_shapes import label, layer_shape
from qir.backends.target import Target
from qir.errors import TargetError
from qir.module import Module
from qir.ops import op_of

Floats = npt.NDArray[np.float64]
BANDWIDTH = "bits_per_cycle"
"""Name of the outermost memory's bandwidth among the free parameters."""


@dataclass(frozen=True)
class FitResult:
    """A fitted target.

    Attributes:
        target: the target with the fitted parameters.
        parameters: their values.
        scale: measured unit per cycle.
        residuals: layer class → (entries, median relative error, largest relative error).
    """

    target: Target
    parameters: Mapping[str, float]
    scale: float
    residuals: Mapping[str, tuple[int, float, float]]


def fit(
    target: Target, measurements: str | Path | DelayTable, module: Module, *, parameters: Sequence[str] | None = None
) -> FitResult:
    """Fit free parameters, and the time of a cycle, to measured delays; the sum of absolute log errors is minimised.

    Args:
        target: where the fit starts.
        measurements: delay table, or its file, with the layers of `module`.
        module: the network that was measured.
        parameters: names of positive numbers among the model's parameters, or `bits_per_cycle` of the outermost
            memory; by default the bandwidth and the model's `efficiency` and `launch_cycles`, where it has them.

    Raises:
        TargetError: a parameter or layer is unknown, or nothing was measured at the target's widths.
    """
    from scipy.optimize import minimize

    table = measurements if isinstance(measurements, DelayTable) else read_delay_table(measurements)
    fields = target.cost_model().parameters.model_dump()
    numbers = {
        name: float(value)
        for name, value in fields.items()
        if isinstance(value, (int, float)) and not isinstance(value, bool)
    }
    numbers[BANDWIDTH] = target.outermost_memory.bits_per_cycle
    free = (
        [name for name in (BANDWIDTH, "efficiency", "launch_cycles") if name in numbers]
        if parameters is None
        else list(parameters)
    )
    for name in free:
        if name not in numbers:
            raise TargetError(f"fit: target {target.name!r} has no number {name!r}: {nearest(name, numbers)}")
    start = np.log(np.maximum([numbers[name] for name in free], 1.0 if free == ["launch_cycles"] else 1e-3))
    first = _errors(target, module, table)
    if not first:
        raise TargetError(f"fit: no measurement at the widths of target {target.name!r}")

    def loss(logs: Floats) -> float:
        try:
            ratios = _errors(_with(target, dict(zip(free, np.exp(logs), strict=True))), module, table)
        except TargetError:
            return float("inf")
        logarithms = np.log(list(ratios.values()))
        return float(np.abs(logarithms - np.median(logarithms)).mean())

    found = minimize(loss, start, method="Nelder-Mead", options={"maxiter": 60 * max(len(free), 1), "xatol": 1e-3})
    fitted = dict(zip(free, np.exp(found.x).tolist(), strict=True))
    best = _with(target, fitted)
    ratios = _errors(best, module, table)
    scale = float(np.exp(np.median(np.log(list(ratios.values())))))
    return FitResult(best, fitted, scale, _residuals(module, ratios, scale))


def _with(target: Target, values: Mapping[str, float]) -> Target:
    """The target with other numbers; invalid ones raise `TargetError`."""
    parameters: dict[str, Any] = target.cost.parameters | {k: v for k, v in values.items() if k != BANDWIDTH}
    memory = target.outermost_memory.model_copy(
        update={BANDWIDTH: values.get(BANDWIDTH, target.outermost_memory.bits_per_cycle)}
    )
    changed = target.model_copy(
        update={
            "cost": target.cost.model_copy(update={"parameters": parameters}),
            "memories": (memory, *target.memories[1:]),
        }
    )
    changed.cost_model()
    return changed


def _errors(target: Target, module: Module, measured: DelayTable) -> dict[tuple[str, int, int], float]:
    """(layer, weight bits, activation bits) → measured delay / modelled cycles."""
    modelled = delays_of(target.cost_model().table(module))
    found = {}
    for layer, cells in measured.delays.items():
        if layer not in modelled.delays:
            raise TargetError(f"fit: the network has no layer {layer!r}: {nearest(layer, modelled.delays)}")
        for pair, delay in cells.items():
            cycles = modelled.delays[layer].get(pair)
            if cycles and delay > 0:
                found[(layer, *pair)] = delay / cycles
    return found


def _residuals(
    module: Module, ratios: Mapping[tuple[str, int, int], float], scale: float
) -> dict[str, tuple[int, float, float]]:
    classes = {label(node): _class(node) for node in module.graph if op_of(node).quantizable(node) is not None}
    errors: dict[str, list[float]] = {}
    for (layer, _, _), ratio in ratios.items():
        errors.setdefault(classes.get(layer, "other"), []).append(abs(scale / ratio - 1))
    return {name: (len(values), float(np.median(values)), max(values)) for name, values in sorted(errors.items())}


def _class(node: Any) -> str:
    found = layer_shape(node)
    if found is None:
        return "other"
    shape = found[0]
    if shape.fully_connected:
        return "fully connected"
    if shape.depthwise:
        return "depthwise"
    return "pointwise" if shape.kernel == (1, 1) else "convolution"
