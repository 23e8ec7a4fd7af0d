"""Squared gradients times squared perturbations: the diagonal empirical Fisher information."""

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


def empirical_fisher(
    network: TorchModule,
    constraints: BitConstraints,
    images: Samples,
    *,
    labels: Array | None = None,
    pace: Pace | None = None,
) -> Sensitivity:
    """½ mean_n Σ_j g_nj²·Δ_nj², g_n being sample n's gradient by the operand and Δ what its grid changes.

    The second-order term of the loss with the Hessian replaced by the diagonal of the empirical Fisher information
    (Martens, 2020, "New insights and perspectives on the natural gradient method", section 5). Arguments, passes and
    errors are those of `mean_over_samples`; unit: nats.
    """
    loss = loss_of(labels, len(images))
    return mean_over_samples(
        "empirical-fisher", network, constraints, images, loss, lambda g, d: (g * d).square().sum() / 2, pace
    )
