"""Distance of all outputs: for networks with several inputs, or outputs that are not classes.

The mean over the outputs of |y_q - y|² / |y|² when one decision is narrowed, every other one at its widest: the
noise-to-signal ratio at the outputs, additive over decisions to first order.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from qir.passes.constraints.propagate_constraints import BitConstraints
from qir.search.problem.sensitivity import Sensitivity

if TYPE_CHECKING:
    import torch

    from qir.backends.torch.module import TorchModule


def output_distance(
    network: TorchModule, constraints: BitConstraints, batches: Sequence[Sequence[torch.Tensor]]
) -> Sensitivity:
    """Noise-to-signal ratio at the outputs of every option of every decision, over all batches together.

    A quantizer that follows from a decision moves with it, so its share is in the decision's value and its own is 0.

    Args:
        network: calibrated network; left at the widest policy.
        constraints: decisions and options.
        batches: one tensor per input of the network, in order, for each batch.

    Returns:
        Values without unit; `per_decision` gives [decisions][options].
    """
    import torch

    widest = {name: constraints.options[name][-1] for name in constraints.decisions}
    found: dict[tuple[str, int], float] = {}
    with torch.no_grad():
        with network.quantizers_off():
            aims = [_real(network(*inputs)) for inputs in batches]
        signal = [sum(float(y.square().sum()) for y in same) or 1.0 for same in zip(*aims, strict=True)]
        for name in constraints.decisions:
            for bits in constraints.options[name]:
                network.set_policy(constraints.complete({**widest, name: bits}))
                noise = [0.0] * len(signal)
                for inputs, aim in zip(batches, aims, strict=True):
                    for index, (made, true) in enumerate(zip(_real(network(*inputs)), aim, strict=True)):
                        noise[index] += float((made - true).square().sum())
                found[name, bits] = sum(n / s for n, s in zip(noise, signal, strict=True)) / max(len(signal), 1)
        network.set_policy(constraints.complete(widest))
    followers = {(name, bits): 0.0 for name in constraints.implied for bits in constraints.options[name]}
    return Sensitivity("output-distance", followers | found, (len(found) + 1) * len(batches))


def _real(outputs: tuple[torch.Tensor, ...] | dict[str, torch.Tensor]) -> list[torch.Tensor]:
    values = outputs.values() if isinstance(outputs, dict) else outputs
    return [value for value in values if value.is_floating_point()]
