"""What the gradients of single samples say about perturbed operands: shared by Fisher and second-order metrics."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import torch

from qir.passes.constraints.propagate_constraints import BitConstraints
from qir.search.metrics.operands import (
    checked_batch,
    float_operands,
    loss_and_leaves,
    measured_quantizers,
    perturbations,
    targets,
)
from qir.search.problem.sensitivity import Sensitivity
from qir.tensor import Array

if TYPE_CHECKING:
    from qir.backends.torch.module import TorchModule


def mean_over_samples(
    metric: str,
    network: TorchModule,
    constraints: BitConstraints,
    images: Array,
    labels: Array | None,
    measure: Callable[[torch.Tensor, torch.Tensor], torch.Tensor],
) -> Sensitivity:
    """½ mean_n measure(g_n, Δ), g_n being the gradient of sample n's own loss by an operand and Δ its change.

    Of an activation, Δ is the sample's own change.

    Args:
        metric: name of the metric.
        network: calibrated network; not changed.
        constraints: decisions and options.
        images: float32 [N, …] of the calibration split.
        labels: int64 [N]; without them the float network's own predictions.
        measure: (gradient, change), tensors of one shape → a number.

    Returns:
        One forward pass (two without labels), and one forward and one backward pass of every sample.

    Raises:
        DataError: no images, or another number of labels.
    """
    quantized, batch = measured_quantizers(network, constraints), checked_batch(images)
    aims, extra = targets(network, batch, labels)
    operands, _ = float_operands(network, quantized, batch)
    changes = {(name, bits): change for name, bits, change in perturbations(quantized, operands, constraints)}
    values = dict.fromkeys(changes, 0.0)
    for n in range(len(batch)):
        loss, leaves = loss_and_leaves(network, quantized, batch[n : n + 1], aims[n : n + 1])
        found = torch.autograd.grad(loss, list(leaves.values()), allow_unused=True, materialize_grads=True)
        gradients = dict(zip(leaves, found, strict=True))
        for (name, bits), change in changes.items():
            own = change if quantized[name].is_weight else change[n : n + 1]
            values[name, bits] += float(measure(gradients[name], own)) / (2 * len(batch))
    return Sensitivity(metric, values, 1 + extra + len(batch), backward_passes=len(batch))
