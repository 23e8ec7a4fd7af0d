"""Fit a cost model's free parameters to measurements of the user's own hardware."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from qir.backends.costs.layers.layer_shapes import LayerProduct, products_of
from qir.backends.costs.layers.shape import ConvShape
from qir.backends.costs.tables.delay_files import SHAPE_COLUMNS, DelayTable, read_delay_table
from qir.backends.costs.target import Target, TargetLike, as_target
from qir.errors import TargetError
from qir.module import Module
from qir.support.nearest import nearest

Floats = npt.NDArray[np.float64]
Ratios = dict[tuple[str, int, int], float]
Layers = Mapping[str, tuple[LayerProduct, ...]]
BANDWIDTH = "bits_per_cycle"
"""Name of the outermost memory's bandwidth among the free parameters."""

_DEFAULTS = (BANDWIDTH, "efficiency", "launch_cycles")
_ITERATIONS = 60
"""Steps of the search for each free parameter."""
_SWEEPS = 2
_STEPS = np.array([0.0, *(sign * step for step in range(1, 8) for sign in (-1, 1))])
"""Powers of two that are tried around the start before the search, nearest first."""


class Residual(NamedTuple):
    """How far the fitted model is from the measurements of one class of layers.

    Attributes:
        entries: measurements.
        median: of the relative errors.
        largest: of the relative errors.
    """

    entries: int
    median: float
    largest: float


@dataclass(frozen=True)
class FitResult:
    """A fitted target.

    Attributes:
        target: the target with the fitted parameters.
        parameters: their values.
        scale: measured unit per cycle.
        residuals: layer class (convolution, pointwise, depthwise, fully connected) → its errors.
    """

    target: Target
    parameters: Mapping[str, float]
    scale: float
    residuals: Mapping[str, Residual]


def fit(
    target: TargetLike,
    measurements: str | Path | DelayTable,
    module: Module | None = None,
    *,
    parameters: Sequence[str] | None = None,
) -> FitResult:
    """Fit free parameters, and the time of a cycle, to measured delays; the mean absolute log error is minimised.

    Args:
        target: where the fit starts: a target, the name of one, or its file.
        measurements: delay table, or its file. `qir target measure MODEL FILE.csv` writes one.
        module: the network that was measured; not needed where the table holds its layers' shapes.
        parameters: names of positive numbers among the model's parameters, or `bits_per_cycle` of the outermost
            memory; by default the bandwidth and the model's `efficiency` and `launch_cycles`, where it has them.

    Raises:
        TargetError: a parameter or layer is unknown, a shape is missing, or nothing was measured at the target's
            widths.
    """
    from scipy.optimize import minimize

    table = measurements if isinstance(measurements, DelayTable) else read_delay_table(measurements)
    target = as_target(target)
    numbers = _numbers(target)
    free = [name for name in _DEFAULTS if name in numbers] if parameters is None else list(parameters)
    for name in free:
        if name not in numbers:
            raise TargetError(f"fit: target {target.name!r} has no number {name!r}: {nearest(name, numbers)}")
    layers = _layers(table, module)
    if not _ratios(target, layers, table):
        raise TargetError(f"fit: no measurement at the widths of target {target.name!r}")

    def loss(logs: Floats) -> float:
        try:
            ratios = _ratios(_with(target, dict(zip(free, np.exp(logs), strict=True))), layers, table)
        except TargetError:
            return float("inf")
        logarithms = np.log(list(ratios.values()))
        return float(np.abs(logarithms - np.median(logarithms)).mean())

    start = np.log([max(numbers[name], 1.0 if name == "launch_cycles" else 1e-3) for name in free])
    start = _coarse(start, loss)
    found = minimize(loss, start, method="Nelder-Mead", options={"maxiter": _ITERATIONS * len(free), "xatol": 1e-3})
    fitted = dict(zip(free, np.exp(found.x).tolist(), strict=True))
    best = _with(target, fitted)
    ratios = _ratios(best, layers, table)
    scale = float(np.exp(np.median(np.log(list(ratios.values())))))
    return FitResult(best, fitted, scale, _residuals(layers, ratios, scale))


def _coarse(start: Floats, loss: Callable[[Floats], float]) -> Floats:
    """Return the best of powers of two around the start, one parameter after the other.

    A bound that is not met is flat.
    """
    best = start
    for _ in range(_SWEEPS):
        for index in range(len(start)):
            tried = np.repeat(best[None], len(_STEPS), axis=0)
            tried[:, index] += np.log(2.0) * _STEPS
            best = tried[int(np.argmin([loss(point) for point in tried]))]
    return best


def _numbers(target: Target) -> dict[str, float]:
    """Return the numbers of a target that can be fitted."""
    fields = target.cost_model().parameters.model_dump()
    found = {
        name: float(value)
        for name, value in fields.items()
        if isinstance(value, (int, float)) and not isinstance(value, bool)
    }
    return found | {BANDWIDTH: target.outermost_memory.bits_per_cycle}


def _layers(table: DelayTable, module: Module | None) -> Layers:
    """Return the products of every measured layer; nodes without weights fit nothing."""
    stated = {name: (LayerProduct(shape),) for name, shape in table.shapes.items()}
    known = stated if module is None else products_of(module)
    layers = [name for name, cells in table.delays.items() if any(weight_bits for weight_bits, _ in cells)]
    for name in layers:
        if name not in known and module is None:
            raise TargetError(
                f"fit: the shape of layer {name!r} is not known: give the network, or the columns "
                f"{', '.join(SHAPE_COLUMNS)}"
            )
        if name not in known:
            raise TargetError(f"fit: the network has no layer {name!r}: {nearest(name, known)}")
    return {name: known[name] for name in layers}


def _with(target: Target, values: Mapping[str, float]) -> Target:
    """Return the target with other numbers; invalid ones raise `TargetError`."""
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


def _ratios(target: Target, layers: Layers, measured: DelayTable) -> Ratios:
    """(layer, weight bits, activation bits) → measured delay / modelled cycles, at the target's legal pairs."""
    model, rules = target.cost_model(), target.operand_rules()
    found = {}
    for name, products in layers.items():
        for (weight_bits, activation_bits), delay in measured.delays[name].items():
            if delay > 0 and rules.allows(activation_bits, weight_bits):
                costs = (model.named_cost(name, product, weight_bits, activation_bits) for product in products)
                found[name, weight_bits, activation_bits] = delay / sum(cost.cycles for cost in costs)
    return found


def _residuals(layers: Layers, ratios: Ratios, scale: float) -> dict[str, Residual]:
    errors: dict[str, list[float]] = {}
    for (layer, _, _), ratio in ratios.items():
        errors.setdefault(_class(layers[layer][0].shape), []).append(abs(scale / ratio - 1))
    return {
        name: Residual(len(values), float(np.median(values)), max(values)) for name, values in sorted(errors.items())
    }


def _class(shape: ConvShape) -> str:
    if shape.fully_connected:
        return "fully connected"
    if shape.depthwise:
        return "depthwise"
    return "pointwise" if shape.kernel == (1, 1) else "convolution"
