"""Squared change of the outputs when one quantizer alone is on (OBACWA, EvoQ)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch

from qir.module import Module
from qir.passes.constraints.propagate_constraints import BitConstraints
from qir.policy import Bits
from qir.search.evaluation.parallel import sent
from qir.search.evaluation.reuse import ReusingNetwork, new_tag, reusing, reusing_here
from qir.search.metrics.operands import checked_batch, float_operands, measured_quantizers, output_with
from qir.search.problem.channels import completed
from qir.search.problem.sensitivity import Sensitivity
from qir.tensor import Array

if TYPE_CHECKING:
    from qir.backends.torch.module import TorchModule


def output_error(network: TorchModule, constraints: BitConstraints, images: Array) -> Sensitivity:
    """mean((f(x) - f_q(x))²) over samples and outputs, f_q being the float network with one quantizer on.

    That the output errors of single tensors add up is OBACWA's relation (Zhe et al., 2019, ICIP; survey, equations 11
    and 12); EvoQ (Yuan et al., 2020) guides its mutations by the same number.

    Args:
        network: calibrated network; not changed.
        constraints: decisions and options.
        images: float32 [N, …] of the calibration split.

    Returns:
        One forward pass and one for every (quantizer, width); unit: the outputs' squared.

    Raises:
        DataError: there are no images.
    """
    quantized, batch = measured_quantizers(network, constraints), checked_batch(images)
    _, aim = float_operands(network, {}, batch)
    with reusing_here(network):
        values = {
            (name, bits): float((output_with(network, node, bits, batch) - aim).square().mean())
            for name, node in quantized.items()
            for bits in constraints.options[name]
        }
    return Sensitivity("output-mse", values, 1 + len(values))


class NetworkOutputError:
    """Minus the mean squared change of the outputs at a whole policy: EvoQ's fitness, without labels.

    Args:
        module: calibrated network; not changed.
        constraints: completes decisions to a policy.
        images: float32 [N, …]; the paper takes 50.

    Raises:
        DataError: there are no images.
    """

    def __init__(self, module: Module, constraints: BitConstraints, images: Array) -> None:
        self.module, self.constraints, self.images = module, constraints, images
        self.network, self.batch, self._tag = ReusingNetwork(module), checked_batch(images), new_tag()
        _, self._aim = float_operands(self.network, {}, self.batch)

    def __reduce__(self) -> tuple[Any, ...]:
        return sent(NetworkOutputError, self.module, constraints=self.constraints, images=self.images)

    def __call__(self, decided: Mapping[str, Bits]) -> float:
        """Return the (negative) error of a policy of decisions, to be maximised: one forward pass."""
        self.network.set_policy(completed(self.constraints, decided))
        with torch.no_grad(), reusing(self.network, self._tag):
            return -float((self.network(self.batch)[0] - self._aim).square().mean())
