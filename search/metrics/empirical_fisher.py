"""Squared gradients times squared perturbations: the diagonal empirical Fisher information."""

from __future__ import annotations

from typing import TYPE_CHECKING

from qir.passes.propagate_constraints import BitConstraints
from qir.search.metrics.operands import (
    checked_batch,
    float_operands,
    is_weight,
    measured_quantizers,
    perturbations,
    sample_gradients,
    targets,
)
from qir.search.metrics.sensitivity import Sensitivity
from qir.tensor import Array

if TYPE_CHECKING:
    from qir.backends.torch_module import TorchModule


def empirical_fisher(
    network: TorchModule, constraints: BitConstraints, images: Array, *, labels: Array | None = None
) -> Sensitivity:
    """½ mean_n Σ_j g_nj²·Δ_nj², g_n being sample n's gradient by the operand and Δ what its grid changes.

    The second-order term of the loss with the Hessian replaced by the diagonal of the empirical Fisher information
    (Martens, 2020, "New insights and perspectives on the natural gradient method", section 5).

    Args:
        network: calibrated network; not changed.
        constraints: decisions and options.
        images: float32 [N, …] of the calibration split.
        labels: int64 [N]; without them the float network's own predictions.

    Returns:
        One forward pass (two without labels), and one forward and one backward pass of every sample; unit: nats.

    Raises:
        DataError: no images, or another number of labels.
    """
    nodes, batch = measured_quantizers(network, constraints), checked_batch(images)
    aims, extra = targets(network, batch, labels)
    operands, _ = float_operands(network, nodes, batch)
    changes = {(name, bits): change.square() for name, bits, change in perturbations(nodes, operands, constraints)}
    values = dict.fromkeys(changes, 0.0)
    for n, gradients in enumerate(sample_gradients(network, nodes, batch, aims)):
        squares = {name: gradient.square() for name, gradient in gradients.items()}
        for (name, bits), change in changes.items():
            own = change if is_weight(nodes[name]) else change[n : n + 1]
            values[name, bits] += float((squares[name] * own).sum()) / (2 * len(batch))
    return Sensitivity("empirical-fisher", values, 1 + extra + len(batch), backward_passes=len(batch))
