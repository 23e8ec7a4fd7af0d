"""Mean curvature times perturbation: HAWQ-V2 and HAWQ-V3, for weights and activations."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from qir.errors import SearchError
from qir.passes.constraints.propagate_constraints import BitConstraints
from qir.search.metrics.operands import (
    Tensors,
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

LEAST_DRAWS = 10
"""Draws before the relative change may stop the estimate."""


def hessian_trace(
    network: TorchModule,
    constraints: BitConstraints,
    images: Array,
    *,
    labels: Array | None = None,
    iterations: int = 100,
    tolerance: float = 1e-3,
    seed: int = 0,
) -> Sensitivity:
    """Ω_i(b) = (Tr(H_i)/n_i)·‖Q_b(x_i) - x_i‖² (Dong et al., 2020, HAWQ-V2; Yao et al., 2021, HAWQ-V3, section 3.3).

    H_i is the Hessian of the mean cross-entropy by the operand of quantizer i, n_i its number of elements. For an
    activation, trace and perturbation are means over the samples. Activations are HAWQ-V2's extension.

    Args:
        network: calibrated network; not changed.
        constraints: decisions and options.
        images: float32 [N, …] of the calibration split.
        labels: int64 [N]; without them the float network's own predictions.
        iterations: most draws of Hutchinson's estimator for each quantizer.
        tolerance: largest relative change of the running mean at which a quantizer's draws stop (PyHessian's rule).
        seed: of the draws.

    Returns:
        Two forward passes (three without labels) one backward pass, and one Hessian-vector product for each draw and
            quantizer; unit: nats.

    Raises:
        DataError: no images, or another number of labels.
        SearchError: there are no iterations.
    """
    if iterations < 1:
        raise SearchError(f"hessian trace: {iterations} iterations; expected 1 or more")
    quantized, batch = measured_quantizers(network, constraints), checked_batch(images)
    aims, extra = targets(network, batch, labels)
    loss, leaves = loss_and_leaves(network, quantized, batch, aims)
    traces, draws = hutchinson(loss, leaves, iterations=iterations, tolerance=tolerance, seed=seed)
    operands, _ = float_operands(network, quantized, batch)
    values = {
        (name, bits): traces[name] * float(change.square().mean())
        for name, bits, change in perturbations(quantized, operands, constraints)
    }
    return Sensitivity("hessian-trace", values, 2 + extra, backward_passes=1 + draws)


def hutchinson(
    loss: torch.Tensor, leaves: Tensors, *, iterations: int, tolerance: float, seed: int
) -> tuple[dict[str, float], int]:
    """Return the trace of every leaf's diagonal block of the Hessian, and the draws of all blocks together.

    The mean of zᵀHz over Rademacher vectors z (Hutchinson, 1990), block by block: a draw over all blocks at once costs
    less, but the variance of its off-diagonal parts can turn a small trace negative, and narrow widths into a gain.
    The relative change is taken of absolute values, as a trace may be negative.
    """
    generator = torch.Generator().manual_seed(seed)
    gradients = torch.autograd.grad(loss, list(leaves.values()), create_graph=True, materialize_grads=True)
    found = {
        name: _trace(gradient, leaf, generator, iterations, tolerance)
        for (name, leaf), gradient in zip(leaves.items(), gradients, strict=True)
    }
    return {name: trace for name, (trace, _) in found.items()}, sum(draws for _, draws in found.values())


def _trace(
    gradient: torch.Tensor, leaf: torch.Tensor, generator: torch.Generator, iterations: int, tolerance: float
) -> tuple[float, int]:
    if not gradient.requires_grad:
        return 0.0, 0
    total, before, draws = 0.0, 0.0, 0
    for draws in range(1, iterations + 1):
        z = torch.randint(0, 2, leaf.shape, generator=generator).to(leaf) * 2 - 1
        (product,) = torch.autograd.grad(
            gradient, leaf, grad_outputs=z, retain_graph=True, allow_unused=True, materialize_grads=True
        )
        total += float((z * product).sum())
        mean = total / draws
        if draws >= LEAST_DRAWS and abs(mean - before) <= tolerance * (abs(before) + 1e-12):
            break
        before = mean
    return total / draws, draws
