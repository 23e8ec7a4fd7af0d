"""Curvature of the outputs: how far they move to second order, from a few backward passes, for networks of any kind."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from qir.passes.constraints.propagate_constraints import BitConstraints
from qir.search.metrics.gradients.sample_gradients import Outputs, Scalars, mean_over_samples
from qir.search.metrics.operands import Samples
from qir.search.metrics.outputs.output_loss import scores_classes
from qir.search.metrics.pace import Pace
from qir.search.problem.sensitivity import Sensitivity

if TYPE_CHECKING:
    from qir.backends.torch.module import TorchModule


def gauss_newton(
    network: TorchModule,
    constraints: BitConstraints,
    images: Samples,
    *,
    probes: int = 1,
    seed: int = 0,
    pace: Pace | None = None,
) -> Sensitivity:
    """½ mean_n ΔᵀJ_nᵀH_nJ_nΔ: what `output-distance` measures, to second order, with H the Hessian at the outputs.

    J is the Jacobian of the outputs by an operand, so this is the generalized Gauss-Newton matrix (Schraudolph, 2002,
    "Fast curvature matrix-vector products for second-order gradient descent"), for scores of classes the same as the
    Fisher information (Martens, 2020, section 9). It is estimated as Hutchinson's trace is: with E[v vᵀ] = H, the mean
    of (vᵀJΔ)², one backward pass for each v. For scores of classes H = diag(p) - p pᵀ; else 2/‖y‖² of each output. No
    labels.

    Args:
        network: calibrated network; not changed.
        constraints: decisions and options.
        images: float32 images [N, …], or one array per input for each sample.
        probes: draws of v for each sample.
        seed: of the draws.
        pace: when to end early.

    Returns:
        Passes as of `mean_over_samples`; unit: nats for scores of classes, else none.

    Raises:
        DataError: there are no samples.
        QirError: a node has no lowering in torch, so that no gradient passes it.
    """
    draw = _probes(probes, seed, classes=scores_classes(network.graph))
    return mean_over_samples(
        "gauss-newton", network, constraints, images, draw, lambda g, d: (g * d).sum().square() / 2, pace
    )


def _probes(count: int, seed: int, *, classes: bool) -> Scalars:
    """vᵀy of so many draws of v, each with E[v vᵀ] = H."""
    generator = torch.Generator().manual_seed(seed)

    def signs(y: torch.Tensor) -> torch.Tensor:
        return (torch.randint(0, 2, y.shape, generator=generator) * 2 - 1).to(y)

    def of_classes(outputs: Outputs) -> torch.Tensor:
        scores = outputs[0]
        root = scores.detach().softmax(1).sqrt()
        drawn = signs(root)
        v = root * (drawn - root * (root * drawn).sum(1, keepdim=True))
        product: torch.Tensor = (v * scores).sum() / len(scores) ** 0.5
        return product

    def of_all(outputs: Outputs) -> torch.Tensor:
        found = [output for output in outputs if output.is_floating_point()]
        return sum(
            ((signs(y) * y).sum() * (2 / len(found)) ** 0.5 / (y.detach().norm() or 1.0) for y in found),
            torch.zeros((), requires_grad=True),
        )

    one = of_classes if classes else of_all
    return lambda outputs, _: [one(outputs) for _ in range(count)]
