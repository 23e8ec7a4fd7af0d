"""Sensitivity metrics by name, measured once: a store keeps what they found for every later budget."""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from qir.backends.execution.interpreter import Interpreter
from qir.errors import SearchError
from qir.module import Module
from qir.passes.constraints.propagate_constraints import BitConstraints
from qir.registry import Registry
from qir.search.evaluation.identity import data_digest, module_digest
from qir.search.metrics.pace import Pace
from qir.search.problem.sensitivity import Sensitivity
from qir.tensor import Array

if TYPE_CHECKING:
    from qir.search.evaluation.store import Store
    from qir.search.metrics.operands import Samples

Metric = Callable[..., Sensitivity]
"""(network, constraints, images float32 [N, …], **options) → sensitivity; `labels`, `seed` and `pace` are options of
those that take them."""

ANY_NETWORK = frozenset({"taylor", "second-order", "empirical-fisher", "gauss-newton", "output-distance"})
"""Metrics that take networks with several inputs too: one array per input in place of images."""

SHIPPED = {
    "mse": "qir.search.metrics.quantization_error:quantization_error",
    "noise-to-signal": "qir.search.metrics.quantization_error:noise_to_signal",
    "output-mse": "qir.search.metrics.outputs.output_error:output_error",
    "output-divergence": "qir.search.metrics.outputs.output_divergence:output_divergence",
    "hessian-trace": "qir.search.metrics.gradients.hessian_trace:hessian_trace",
    "empirical-fisher": "qir.search.metrics.gradients.loss_changes:empirical_fisher",
    "second-order": "qir.search.metrics.gradients.loss_changes:second_order",
    "taylor": "qir.search.metrics.gradients.loss_changes:taylor",
    "gauss-newton": "qir.search.metrics.gradients.gauss_newton:gauss_newton",
    "output-distance": "qir.search.metrics.outputs.output_distance:output_distance",
    "adversarial-noise": "qir.search.metrics.outputs.adversarial_noise:adversarial_noise",
    "feature-separability": "qir.search.metrics.feature_separability:feature_separability",
    "pca-significance": "qir.search.metrics.pca_significance:pca_significance",
    "rate-distortion": "qir.search.metrics.rate_distortion:rate_distortion_slope",
}
"""Name of a metric of qir's own → where its function is."""

WITHOUT_TORCH = frozenset({"output-distance"})
"""Metrics that are given an `Interpreter` in place of a torch network."""

METRICS: Registry[Metric] = Registry(
    "metric",
    "qir.metrics",
    SHIPPED,
    accepts=callable,
    expected="a function from a network, constraints and images to a sensitivity",
    error=SearchError,
)
"""Name of a sensitivity metric → its function; one of another package is an entry point of the group `qir.metrics`."""


def measure(
    metric: str,
    module: Module,
    constraints: BitConstraints,
    images: Samples,
    *,
    labels: Array | None = None,
    seed: int = 0,
    store: Store | str | Path | None = None,
    pace: Pace | None = None,
    **options: Any,
) -> Sensitivity:
    """Measure a metric, or take what a store holds of it.

    Args:
        metric: a name in `METRICS`.
        module: calibrated network; not changed.
        constraints: decisions and options.
        images: float32 [N, …] of the calibration split; for a metric of `ANY_NETWORK` also one array per input for each
            sample (each batch, for `output-distance`).
        labels: int64 [N], for metrics of loss or accuracy; without them these take the network's own predictions.
        seed: of metrics that draw random numbers.
        store: keeps the result under hashes of network and data, the metric and its options, unless it ended early.
        pace: when to end early, for metrics that can.
        **options: of the metric's function.

    Raises:
        SearchError: unknown metric or option.
        TimeOverError: the pace ended before a metric that cannot do with a part of its samples.
        DataError: no images, or another number of labels.
    """
    found = METRICS[metric]
    known = list(inspect.signature(found).parameters)[3:]
    unknown = sorted(set(options) - set(known))
    if unknown:
        raise SearchError(f"metric {metric!r}: unknown options {unknown}; it takes {known or 'none'}")
    given = {"labels": labels, "seed": seed, "pace": pace}
    arguments = {name: value for name, value in given.items() if name in known} | options
    if store is None:
        return _measured(metric, module, constraints, images, arguments)
    from qir.search.evaluation.store import Store

    kept = store if isinstance(store, Store) else Store(store)
    identity = _identity(metric, module, constraints, images, arguments)
    known_already = kept.get_sensitivity(identity)
    if known_already is None:
        known_already = _measured(metric, module, constraints, images, arguments)
        if not known_already.stopped:
            kept.put_sensitivity(identity, known_already)
    if kept is not store:
        kept.close()
    return known_already


def _measured(
    metric: str, module: Module, constraints: BitConstraints, images: Samples, arguments: dict[str, Any]
) -> Sensitivity:
    if metric in WITHOUT_TORCH:
        return METRICS[metric](Interpreter(module), constraints, images, **arguments)
    from qir.search.evaluation.reuse import ReusingNetwork

    return METRICS[metric](ReusingNetwork(module), constraints, images, **arguments)


def _identity(
    metric: str, module: Module, constraints: BitConstraints, images: Samples, arguments: dict[str, Any]
) -> dict[str, str]:
    """Return what a sensitivity depends on."""
    plain = {name: value for name, value in arguments.items() if name not in {"labels", "pace"}}
    arrays = [images] if isinstance(images, np.ndarray) else [array for sample in images for array in sample]
    return {
        "metric": metric,
        "model": module_digest(module),
        "options": json.dumps([plain, sorted(constraints.options.items())], sort_keys=True),
        "data": data_digest(*arrays, arguments.get("labels")),
    }
