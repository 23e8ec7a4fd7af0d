"""Gradient times error: the first-order change of the loss."""

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


def taylor(
    network: TorchModule,
    constraints: BitConstraints,
    images: Samples,
    *,
    labels: Array | None = None,
    pace: Pace | None = None,
) -> Sensitivity:
    """mean_n |g_nᵀΔ|, the first-order term of sample n's loss at an operand that its grid changes by Δ.

    Molchanov, Tyree, Karras, Aila and Kautz, 2017, "Pruning convolutional neural networks for resource efficient
    inference" (ICLR), equation 6: removing a feature map costs |g·a| to first order, taken per sample and then averaged
    so that signs do not cancel (2019, "Importance estimation for neural network pruning", for weights). Here what
    changes is not set to 0 but to its grid. Arguments, passes and errors are those of `mean_over_samples`; unit: nats.
    """
    loss = loss_of(labels, len(images))
    return mean_over_samples("taylor", network, constraints, images, loss, lambda g, d: (g * d).sum().abs(), pace)
