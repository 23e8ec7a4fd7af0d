"""Second-order change of the loss, ½ ΔᵀHΔ, off-diagonal terms included (MPQNNCO)."""

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


def second_order(
    network: TorchModule, constraints: BitConstraints, images: Array, *, labels: Array | None = None
) -> Sensitivity:
    """½ mean_n (g_nᵀΔ)², the second-order term with the Hessian of the cross-entropy replaced by mean_n g_n g_nᵀ.

    Chen et al., 2021, "Towards mixed-precision quantization of neural networks via constrained optimization", section
    3: near a trained network the Hessian of the cross-entropy is the mean outer product of the samples' gradients, so
    no Hessian is built. The paper measures weights; activations are measured the same way with each sample's own Δ.

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
    changes = {(name, bits): change for name, bits, change in perturbations(nodes, operands, constraints)}
    values = dict.fromkeys(changes, 0.0)
    for n, gradients in enumerate(sample_gradients(network, nodes, batch, aims)):
        for (name, bits), change in changes.items():
            own = change if is_weight(nodes[name]) else change[n : n + 1]
            values[name, bits] += float((gradients[name] * own).sum()) ** 2 / (2 * len(batch))
    return Sensitivity("second-order", values, 1 + extra + len(batch), backward_passes=len(batch))
