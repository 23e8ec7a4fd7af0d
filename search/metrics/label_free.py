"""How far a network's outputs move at each width, without labels, for networks of any kind."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from qir.backends.costs.layers.open_sizes import with_known_sizes
from qir.errors import SearchError
from qir.module import Module
from qir.ops import op_of
from qir.passes.analysis.quantized_layers import quantized_layers
from qir.passes.constraints.propagate_constraints import BitConstraints
from qir.passes.data.kinds.source import Data
from qir.passes.data.samples import KEPT, batches, fitting_samples, samples_of
from qir.search.metrics.measuring import ANY_NETWORK, METRICS, SHIPPED, WITHOUT_TORCH, measure
from qir.search.metrics.pace import INTERRUPTED, TIME_LIMIT, NoGradientError, Pace, TimeOverError
from qir.search.problem.sensitivity import Sensitivity
from qir.support.nearest import nearest
from qir.support.packages import is_installed, require_torch
from qir.support.progress import stage
from qir.tensor import Array

if TYPE_CHECKING:
    from qir.search.evaluation.store import Store

AUTO = "auto"
"""`gauss-newton`, and `output-distance` where no gradient passes the network or torch is not installed."""

NO_TORCH = (
    "bits are chosen by output-distance: torch, which the default gauss-newton takes gradients from, is not installed"
)

EXHAUSTIVE = "exhaustive"
"""The dear measurement that others are held against: `output-divergence` of scores of classes, else `output-distance`
on more samples."""

SENSITIVITY_IMAGES = 128
"""Samples of metrics that see all of them at a time."""

GRADIENT_SAMPLES, FORWARD_SAMPLES = 32, 8
"""Samples of the two that `auto` takes; they cost at most twenty forward passes, or one partial pass for each width."""

LEAST_SAMPLES, GRADIENT_WORK = 8, 32e9
"""Samples of `gauss-newton` at least, and the multiply-accumulates of one forward pass over all of them otherwise."""

EXHAUSTIVE_BATCHES = 16


def outputs_sensitivity(
    module: Module,
    constraints: BitConstraints,
    data: Data,
    *,
    metric: str = AUTO,
    images: int | None = None,
    seed: int = 0,
    store: Store | str | Path | None = None,
    pace: Pace | None = None,
) -> Sensitivity:
    """Return sensitivities of a network of any kind, from samples of any kind.

    Args:
        module: calibrated network; not changed.
        constraints: decisions and options.
        data: calibration data of any kind that `calibrate` takes; the first of them are used.
        metric: `auto`, `exhaustive`, or a name in `METRICS`.
        images: samples at most, by default what the metric needs; fewer where the results of all layers would not fit.
        seed: of metrics that draw random numbers.
        store: keeps what was measured under hashes of network and data.
        pace: when to end early; what is not measured by then is taken for the noise of the widths alone.

    Raises:
        SearchError: there is no such metric, or it measures networks with one input only.
    """
    check_metric(metric)
    found = _Measured(module, constraints, data, seed, store, pace)
    if metric == AUTO:
        return found.auto(images)
    if metric == EXHAUSTIVE:
        return found.exhaustive(images)
    return found.by(metric, images)


def check_metric(metric: str) -> None:
    """Raise unless sensitivities can be asked for by this name.

    Raises:
        SearchError: there is no such metric; the message holds the nearest.
        MissingExtraError: it needs torch, which is not installed.
    """
    if metric not in {AUTO, EXHAUSTIVE, *METRICS}:
        raise SearchError(f"sensitivity {metric!r} is unknown: {nearest(metric, (AUTO, EXHAUSTIVE, *METRICS))}")
    if metric in SHIPPED and metric not in WITHOUT_TORCH:
        require_torch(f"sensitivity {metric!r}", f"take {', '.join(sorted(WITHOUT_TORCH))}")


class _Measured:
    """Metrics of one network on one set of data."""

    def __init__(
        self,
        module: Module,
        constraints: BitConstraints,
        data: Data,
        seed: int,
        store: Store | str | Path | None,
        pace: Pace | None,
    ) -> None:
        self._module, self._constraints, self._data = module, constraints, data
        self._how: dict[str, Any] = {"seed": seed, "store": store, "pace": pace}

    def auto(self, images: int | None) -> Sensitivity:
        if not is_installed("torch"):
            return replace(self.by("output-distance", images), note=NO_TORCH)
        if has_gradients(self._module):
            try:
                found = self.by("gauss-newton", images)
            except NoGradientError:
                return self.by("output-distance", images)
            values = list(found.values.values())
            if found.stopped or (any(values) and np.isfinite(values).all()):
                return found
        return self.by("output-distance", images)

    def exhaustive(self, images: int | None) -> Sensitivity:
        from qir.search.metrics.outputs.output_loss import scores_classes

        feed = self._batch(images or SENSITIVITY_IMAGES)
        one = len(feed) == 1 and samples_of(feed) > 1 and is_installed("torch")
        if one and scores_classes(self._module.graph):
            return self._measure("output-divergence", next(iter(feed.values())))
        count = self._fitting(images or SENSITIVITY_IMAGES)
        return self._measure("output-distance", self._feeds(count, EXHAUSTIVE_BATCHES))

    def by(self, metric: str, images: int | None) -> Sensitivity:
        if metric == "output-distance":
            wanted = images or FORWARD_SAMPLES
            count = self._fitting(wanted)
            return self._measure(metric, self._feeds(count, -(-wanted // count)))
        if metric in ANY_NETWORK:
            return self._measure(metric, self._feeds(1, images or gradient_samples(self._module)))
        feed = self._batch(images or SENSITIVITY_IMAGES)
        if len(feed) != 1:
            others = ", ".join(sorted(ANY_NETWORK))
            raise SearchError(f"metric {metric!r} measures networks with one input; for this one take {others}")
        return self._measure(metric, next(iter(feed.values())))

    def _measure(self, metric: str, samples: Any) -> Sensitivity:
        try:
            found = measure(metric, self._module, self._constraints, samples, **self._how)
        except (KeyboardInterrupt, TimeOverError) as end:
            stopped = TIME_LIMIT if isinstance(end, TimeOverError) else INTERRUPTED
            found = Sensitivity(metric, {}, 0, stopped=stopped)
        missing = not any(name in self._constraints.decisions for name, _ in found.values)
        return noise_of_widths(self._constraints, found) if missing else found

    def _fitting(self, most: int) -> int:
        """Return samples whose results of all layers are held at the same time."""
        results = (layer.node.result for layer in quantized_layers(self._module.graph))
        return fitting_samples(self._module, self._data, results, most, memory=KEPT)

    def _batch(self, most: int) -> Mapping[str, Array]:
        return next(iter(batches(self._module, self._data, batch=self._fitting(most))))

    def _feeds(self, batch: int, most: int) -> list[list[Array]]:
        """Return the first feeds, one array per input in order."""
        names = [value.name for value in self._module.graph.inputs if value.constant is None]
        with stage("reading"):
            feeds = islice(batches(self._module, self._data, batch=batch), most)
            return [[np.array(feed[name]) for name in names] for feed in feeds]


def gradient_samples(module: Module) -> int:
    """Return samples that gradients are taken of: fewer on networks whose forward pass is long."""
    nodes = (node for node in with_known_sizes(module).graph if op_of(node).is_expensive)
    work = sum(op_of(node).macs(node, batch=1) or 0 for node in nodes)
    return int(max(min(GRADIENT_SAMPLES, GRADIENT_WORK / max(work, 1)), LEAST_SAMPLES))


def has_gradients(module: Module) -> bool:
    """Return whether gradients pass every node: torch has a lowering of each."""
    from qir.backends.torch.graph import GraphPlan

    return not GraphPlan(module.graph, module.opsets).runtime.nodes


def noise_of_widths(constraints: BitConstraints, stopped: Sensitivity) -> Sensitivity:
    """Return what is left to go by where nothing was measured: each bit quarters the noise of its quantizer's operand.

    The 6.02 dB a bit of uniform quantization (Bennett, 1948, "Spectra of quantized signals"), every operand alike.
    """
    changing = (*constraints.decisions, *constraints.implied)
    values = {(name, bits): 4.0**-bits for name in changing for bits in constraints.options[name]}
    note = f"nothing was measured ({stopped.stopped}): each bit counts as a quarter of the noise"
    return replace(stopped, metric="noise-of-widths", values=values, note=note)
