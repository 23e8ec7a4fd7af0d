"""Error of the operands themselves: mean squared error, or noise power over signal power (1/SQNR)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from qir.passes.constraints.propagate_constraints import BitConstraints
from qir.search.metrics.operands import checked_batch, float_operands, measured_quantizers, perturbations
from qir.search.problem.sensitivity import Sensitivity
from qir.tensor import Array

if TYPE_CHECKING:
    from qir.backends.torch.module import TorchModule


def quantization_error(
    network: TorchModule, constraints: BitConstraints, images: Array, *, relative: bool = False
) -> Sensitivity:
    """mean((Q(x) - x)²) of every quantizer's operand, weights and activations; OPQ's metric (survey, metric m1).

    Args:
        network: calibrated network; not changed.
        constraints: decisions and options.
        images: float32 [N, …] of the calibration split; activations are measured on them.
        relative: divide by mean(x²): the inverse of the signal-to-quantization-noise ratio, so that operands of
            different size compare.

    Returns:
        One forward pass; unit: the operand's squared, or none when relative.

    Raises:
        DataError: there are no images.
    """
    quantized = measured_quantizers(network, constraints)
    operands, _ = float_operands(network, quantized, checked_batch(images))
    values = {}
    for name, bits, change in perturbations(quantized, operands, constraints):
        power = float(operands[name].square().mean()) if relative else 1.0
        values[name, bits] = float(change.square().mean()) / (power or 1.0)
    return Sensitivity("noise-to-signal" if relative else "mse", values, 1)


def noise_to_signal(network: TorchModule, constraints: BitConstraints, images: Array) -> Sensitivity:
    """`quantization_error` as a share of the signal's power: 10^(-SQNR/10) with the SQNR in decibels."""
    return quantization_error(network, constraints, images, relative=True)
