"""How much the loss changes with an operand, by terms of its series: one gradient a sample serves all widths."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from qir.passes.constraints.propagate_constraints import BitConstraints
from qir.search.metrics.gradients.sample_gradients import Measure, loss_of, mean_over_samples
from qir.search.metrics.operands import Samples
from qir.search.metrics.pace import Pace
from qir.search.problem.sensitivity import Sensitivity
from qir.tensor import Array

if TYPE_CHECKING:
    from qir.backends.torch.module import TorchModule


@dataclass(frozen=True)
class LossChange:
    """A metric: the mean over samples n of a term of g_n, the gradient by an operand, and Δ, what its grid changes.

    Attributes:
        name: of the metric.
        term: (g_n, Δ), tensors of one shape → nats.
    """

    name: str
    term: Measure

    def __call__(
        self,
        network: TorchModule,
        constraints: BitConstraints,
        images: Samples,
        *,
        labels: Array | None = None,
        pace: Pace | None = None,
    ) -> Sensitivity:
        """Measure a network; arguments, passes and errors are those of `mean_over_samples`."""
        loss = loss_of(labels, len(images))
        return mean_over_samples(self.name, network, constraints, images, loss, self.term, pace)


taylor = LossChange("taylor", lambda g, d: (g * d).sum().abs())
"""mean_n |g_nᵀΔ|, the first-order term.

Molchanov, Tyree, Karras, Aila and Kautz, 2017, "Pruning convolutional neural networks for resource efficient inference"
(ICLR), equation 6: removing a feature map costs |g·a| to first order, taken per sample and then averaged so that signs
do not cancel (2019, "Importance estimation for neural network pruning", for weights). Here what changes is not set to 0
but to its grid.
"""

empirical_fisher = LossChange("empirical-fisher", lambda g, d: (g * d).square().sum() / 2)
"""½ mean_n Σ_j g_nj²·Δ_nj², with the Hessian replaced by the diagonal of the empirical Fisher information.

Martens, 2020, "New insights and perspectives on the natural gradient method", section 5.
"""

second_order = LossChange("second-order", lambda g, d: (g * d).sum().square() / 2)
"""½ mean_n (g_nᵀΔ)², with the Hessian of the cross-entropy replaced by mean_n g_n g_nᵀ, off-diagonal terms included.

Chen, Wang and Cheng, 2021, "Towards mixed-precision quantization of neural networks via constrained optimization"
(ICCV): the loss is expanded to second order, its gradient is taken as zero near a trained network, and the part of the
Hessian that is costly is left out, which for the cross-entropy leaves the mean outer product of gradients. The paper
measures weights; activations are measured the same way, each sample with its own Δ.
"""
