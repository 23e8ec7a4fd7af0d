"""How far a network's outputs move at each width, without labels, for networks of any kind."""

from __future__ import annotations

from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from qir.module import Module
from qir.passes.analysis.quantized_layers import quantized_layers
from qir.passes.constraints.propagate_constraints import BitConstraints
from qir.passes.data.samples import KEPT_MEMORY, batches, fitting_samples
from qir.search.metrics.measuring import measure
from qir.search.problem.sensitivity import Sensitivity
from qir.types import TensorType

if TYPE_CHECKING:
    from qir.search.evaluation.store import Store

SENSITIVITY_IMAGES = 128
SENSITIVITY_BATCHES = 16


def outputs_sensitivity(
    module: Module,
    constraints: BitConstraints,
    data: Any,
    *,
    images: int = SENSITIVITY_IMAGES,
    store: Store | str | Path | None = None,
) -> Sensitivity:
    """Divergence of the outputs where these are scores of classes, else the distance of all outputs.

    Args:
        module: calibrated network; not changed.
        constraints: decisions and options.
        data: calibration data of any kind that `calibrate` takes; the first of them are used.
        images: most samples of a forward pass, fewer where the results of all layers would not fit.
        store: keeps divergences under hashes of network and data.
    """
    results = (layer.node.result for layer in quantized_layers(module.graph))
    count = fitting_samples(module, data, results, images, memory=KEPT_MEMORY)
    feed = next(iter(batches(module, data, batch=count)))
    given = next(iter(feed.values()))
    if len(feed) == 1 and len(given) > 1 and _scores_classes(module):
        return measure("output-divergence", module, constraints, given, store=store)
    return _by_distance(module, constraints, data, count)


def _scores_classes(module: Module) -> bool:
    """Whether the network has one output, of shape [N, classes]."""
    found = [value.type for value in module.graph.outputs if value is not None]
    shape = found[0].shape if len(found) == 1 and isinstance(found[0], TensorType) else None
    return shape is not None and len(shape) == 2 and shape[1] != 1


def _by_distance(module: Module, constraints: BitConstraints, data: Any, batch: int) -> Sensitivity:
    """Sensitivities of a network with several inputs, or outputs that are not classes."""
    import torch

    from qir.backends.torch.module import TorchModule
    from qir.search.metrics.outputs.output_distance import output_distance

    names = [value.name for value in module.graph.inputs if value.constant is None]
    feeds = islice(batches(module, data, batch=batch), SENSITIVITY_BATCHES)
    tensors = [[torch.from_numpy(np.array(feed[name])) for name in names] for feed in feeds]
    return output_distance(TorchModule(module), constraints, tensors)
