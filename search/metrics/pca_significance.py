"""Which layers open new dimensions (Hybrid-Net): principal components in the narrowest network."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from qir.errors import SearchError
from qir.passes.constraints.propagate_constraints import BitConstraints
from qir.search.metrics.layer_scores import layer_results, scored
from qir.search.metrics.operands import checked_batch
from qir.search.problem.sensitivity import Sensitivity
from qir.tensor import Array

if TYPE_CHECKING:
    from qir.backends.torch.module import TorchModule

INSIGNIFICANT = 1e-2
"""Score of a layer that opens no dimension: budgets that are left go to it last."""


def pca_significance(
    network: TorchModule, constraints: BitConstraints, images: Array, *, variance: float = 0.99
) -> Sensitivity:
    """max(0, (k_m - k_m-1) / k_m-1)·‖Δ‖²/‖x‖², k_m being the significant dimensions of layer m.

    Chakraborty et al., 2020, "Constructing energy-efficient mixed-precision neural networks through principal component
    analysis for edge intelligence" (Nature Machine Intelligence 2): k is the number of principal components that
    explain 99 % of the variance of a layer's results before the nonlinearity, over samples and positions, in the binary
    network; layers whose k rises over that of the layer before by a margin are significant and get more bits. Here the
    network at its narrowest widths is the binary one, the rise itself is the price (a budget replaces the margin), and
    it multiplies the noise-to-signal ratio of each width. The first layer's rise is over the network's input channels.

    Args:
        network: calibrated network; left at the policy that it has.
        constraints: decisions and options.
        images: float32 [N, …] of the calibration split.
        variance: share that the components must explain, 0 to 1.

    Returns:
        Two forward passes; no unit.

    Raises:
        DataError: there are no images.
        SearchError: a share outside 0 to 1.
    """
    if not 0 < variance < 1:
        raise SearchError(f"pca significance: variance {variance}; expected a share between 0 and 1")
    batch = checked_batch(images)
    before = network.policy
    network.set_policy(constraints.complete({name: constraints.options[name][0] for name in constraints.decisions}))
    results = layer_results(network, batch)
    network.set_policy(before)
    scores, last = {}, significant_dimensions(batch, variance)
    for node, result in results.items():
        now = significant_dimensions(result, variance)
        scores[node] = max(INSIGNIFICANT, (now - last) / max(last, 1))
        last = now
    return scored("pca-significance", network, constraints, batch, scores, 1)


def significant_dimensions(results: torch.Tensor, variance: float) -> int:
    """Principal components over channels (axis 1) that explain so much of the variance; 0 for constant results."""
    rows = results.movedim(1, -1).reshape(-1, results.shape[1]).double()
    rows = rows - rows.mean(0)
    spectrum = torch.linalg.eigvalsh(rows.T @ rows).flip(0).clamp_min(0)
    total = float(spectrum.sum())
    if total <= 0:
        return 0
    return int((spectrum.cumsum(0) < variance * total).sum()) + 1
