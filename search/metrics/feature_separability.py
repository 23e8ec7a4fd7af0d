"""How well a layer's features keep classes apart (PDB): layers that separate them already may be narrow."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from qir.passes.constraints.propagate_constraints import BitConstraints
from qir.search.metrics.layer_scores import layer_results, scored
from qir.search.metrics.operands import checked_batch, targets
from qir.search.problem.sensitivity import Sensitivity
from qir.tensor import Array

if TYPE_CHECKING:
    from qir.backends.torch.module import TorchModule


def feature_separability(
    network: TorchModule, constraints: BitConstraints, images: Array, *, labels: Array | None = None
) -> Sensitivity:
    """(1 - s_m)·‖Δ‖²/‖x‖² with s_m = 1 - mean over samples of (distance within the class / distance to the others).

    Chu, Luo, Yang and Huang, 2021, "Mixed-precision quantized neural networks with progressively decreasing bitwidth"
    (Pattern Recognition 111): separability s grows with depth, and deeper layers get fewer bits. Distances are mean
    squared ones between a layer's results. Assumptions: the survey (Rakka et al., 2022, equation 19) prints a product
    of the two means where thresholds below 1 and growth with depth ask for a share, and the paper gives widths for
    ranges of s (equation 20) where a budget needs a price of every width: here 1 - s times the noise-to-signal ratio.

    Args:
        network: calibrated network; not changed.
        constraints: decisions and options.
        images: float32 [N, …] of the calibration split; two classes or more, two images of one.
        labels: int64 [N]; without them the float network's own predictions.

    Returns:
        Two forward passes (three without labels); no unit.

    Raises:
        DataError: no images, or another number of labels.
    """
    batch = checked_batch(images)
    aims, extra = targets(network, batch, labels)
    with network.quantizers_off():
        results = layer_results(network, batch)
    scores = {node: 1.0 - separability(result.flatten(1), aims) for node, result in results.items()}
    return scored("feature-separability", network, constraints, batch, scores, 1 + extra)


def separability(features: torch.Tensor, labels: torch.Tensor) -> float:
    """Return separability of features [N, …] and labels [N]: 0 where classes are mixed, near 1 where they are apart.

    Samples without a second one of their class, or without one of another, do not count; with none left it is 0.
    """
    squares = features.double().square().sum(1)
    distances = (squares[:, None] + squares[None, :] - 2 * features.double() @ features.double().T).clamp_min(0)
    same = (labels[:, None] == labels[None, :]) & ~torch.eye(len(labels), dtype=torch.bool)
    other = labels[:, None] != labels[None, :]
    counted = same.any(1) & other.any(1)
    if not counted.any():
        return 0.0
    within = (distances * same).sum(1)[counted] / same.sum(1)[counted]
    between = (distances * other).sum(1)[counted] / other.sum(1)[counted]
    return max(0.0, 1.0 - float((within / between.clamp_min(1e-12)).mean()))
