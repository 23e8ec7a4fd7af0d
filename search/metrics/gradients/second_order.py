"""Second-order change of the loss, ½ ΔᵀHΔ, off-diagonal terms included (MPQNNCO)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from qir.passes.constraints.propagate_constraints import BitConstraints
from qir.search.metrics.gradients.sample_gradients import loss_of, mean_over_samples
from qir.search.metrics.operands import Samples
from qir.search.metrics.pace import Pace
from qir.search.problem.sensitivity import Sensitivity
from qir.tensor import Array

if TYPE_CHECKING:
    from qir.backends.torch.module import TorchModule


def second_order(
    network: TorchModule,
    constraints: BitConstraints,
    images: Samples,
    *,
    labels: Array | None = None,
    pace: Pace | None = None,
) -> Sensitivity:
    """½ mean_n (g_nᵀΔ)², the second-order term with the Hessian of the cross-entropy replaced by mean_n g_n g_nᵀ.

    Chen, Wang and Cheng, 2021, "Towards mixed-precision quantization of neural networks via constrained optimization"
    (ICCV): the loss is expanded to second order, its gradient is taken as zero near a trained network, and the part of
    the Hessian that is costly is left out, which for the cross-entropy leaves the mean outer product of gradients. The
    paper measures weights; activations are measured the same way, each sample with its own Δ. Arguments, passes and
    errors are those of `mean_over_samples`; unit: nats.
    """
    loss = loss_of(labels, len(images))
    return mean_over_samples(
        "second-order", network, constraints, images, loss, lambda g, d: (g * d).sum().square() / 2, pace
    )
