"""Divergence of the outputs (ZeroQ): how far the network's probabilities move when one layer is narrowed.

Ω_i(k) = mean_j KL(M(x_j) ‖ M_i,k(x_j)) (Cai et al., 2020, equation 7), measured with every other layer at its
widest and, if asked for, after the channel-wise affine correction. The proxy is additive over layers.
"""

from __future__ import annotations

from qir.backends.torch.module import TorchModule
from qir.errors import DataError
from qir.passes.constraints.propagate_constraints import BitConstraints
from qir.search.evaluation.accuracy import AccuracyObjective
from qir.search.evaluation.reuse import Corrector, new_tag, reusing
from qir.search.metrics.pace import Pace
from qir.search.problem.sensitivity import Sensitivity
from qir.support.progress import advance
from qir.tensor import Array


def output_divergence(
    network: TorchModule,
    constraints: BitConstraints,
    images: Array,
    *,
    correct: bool = True,
    pace: Pace | None = None,
) -> Sensitivity:
    """KL divergence of every option of every decision.

    A quantizer that follows from a decision moves with it, so its share is in the decision's value and its own is 0.

    Args:
        network: calibrated network with its float weights; left at the widest policy.
        constraints: decisions and options; quantizers that follow from a decision move with it.
        images: float32 [N, …] of the calibration split.
        correct: fit the affine correction before measuring.
        pace: when to end; what was measured until then is of no use without the rest.

    Returns:
        Values in nats; `per_decision` gives [decisions][options].

    Raises:
        DataError: there are no images.
        TimeOverError: the pace ended before the last option.
    """
    import torch
    import torch.nn.functional as F  # noqa: N812 - the name that PyTorch's own documentation uses

    if len(images) == 0:
        raise DataError("output divergence needs images of the calibration split")
    batch = torch.from_numpy(images)
    corrector, tag = Corrector(network, batch) if correct else None, new_tag()
    widest = {name: constraints.options[name][-1] for name in constraints.decisions}
    passes, total = (2 if correct else 1), sum(len(constraints.options[name]) for name in constraints.decisions)
    found: dict[tuple[str, int], float] = {}
    pace = pace or Pace()
    with torch.no_grad():
        with network.quantizers_off():
            aim = F.log_softmax(network(batch)[0], dim=1)
        for name in constraints.decisions:
            for bits in constraints.options[name]:
                network.set_policy(constraints.complete({**widest, name: bits}))
                if corrector is not None:
                    output = corrector.output(corrector.fit())
                else:
                    with reusing(network, tag):
                        output = network(batch)[0]
                logits = F.log_softmax(output, dim=1)
                found[name, bits] = float(F.kl_div(logits, aim, log_target=True, reduction="batchmean"))
                passes += 2 if correct else 1
                pace.check()
                advance(len(found), total)
        network.set_policy(constraints.complete(widest))
    followers = {(name, bits): 0.0 for name in constraints.implied for bits in constraints.options[name]}
    return Sensitivity("output-divergence", followers | found, passes)


def divergence_guide(objective: AccuracyObjective, images: Array) -> list[list[float]]:
    """Return divergence of the outputs per decision and option, on the objective's network with its float weights.

    Args:
        objective: what the search measures; its protocol says whether the affine correction is fitted.
        images: float32 [N, …] of the calibration split.
    """
    objective.reset()
    constraints, correct = objective.constraints, objective.protocol.correct
    return output_divergence(objective.network, constraints, images, correct=correct).per_decision(constraints)
