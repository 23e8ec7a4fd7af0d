"""Output noise as a share of the noise that costs a given accuracy (AQ)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from qir.errors import SearchError
from qir.passes.constraints.propagate_constraints import BitConstraints
from qir.search.metrics.operands import (
    checked_batch,
    float_operands,
    measured_quantizers,
    output_with,
    targets,
)
from qir.search.problem.sensitivity import Sensitivity
from qir.tensor import Array

if TYPE_CHECKING:
    from qir.backends.torch.module import TorchModule
    from qir.fake_quant import FakeQuant
from qir.graph import Node

LARGEST_NOISE = 64.0
"""Largest noise that is tried, in root mean squares of the operand."""


def adversarial_noise(
    network: TorchModule,
    constraints: BitConstraints,
    images: Array,
    *,
    labels: Array | None = None,
    drop: float = 0.2,
    steps: int = 10,
    seed: int = 0,
) -> Sensitivity:
    """‖r_i(b)‖² / (t_i·‖r*‖²) (Zhou et al., 2018, "Adaptive quantization for deep neural network", AAAI).

    ‖r_i(b)‖² is the squared change of the outputs with quantizer i alone on; t_i is the one that uniform noise on its
    operand makes when accuracy has dropped by `drop`, over the mean squared adversarial noise ‖r*‖² (half the squared
    distance of the two largest outputs), which cancels. The noise's scale is found by bisection, from one draw.

    Args:
        network: calibrated network; not changed.
        constraints: decisions and options.
        images: float32 [N, …] of the calibration split.
        labels: int64 [N]; without them the float network's own predictions.
        drop: share of the images that may turn wrong, 0 to 1.
        steps: bisections for each quantizer.
        seed: of the noise.

    Returns:
        One forward pass (two without labels), one for every bisection and every (quantizer, width); no unit.

    Raises:
        DataError: no images, or another number of labels.
        SearchError: a drop outside 0 to 1, or no steps.
    """
    if not 0 < drop < 1 or steps < 1:
        raise SearchError(f"adversarial noise: drop {drop}, {steps} steps; expected 0 < drop < 1 and 1 or more steps")
    quantized, batch = measured_quantizers(network, constraints), checked_batch(images)
    aims, extra = targets(network, batch, labels)
    operands, output = float_operands(network, quantized, batch)
    floor = _accuracy(output, aims) - drop
    generator = torch.Generator().manual_seed(seed)
    values = {}
    for name, quantizer in quantized.items():
        noise = torch.rand(operands[name].shape, generator=generator) * 2 - 1
        noise *= float(operands[name].square().mean().sqrt()) * 3**0.5
        low, high, allowed = 0.0, LARGEST_NOISE, 0.0
        for _ in range(steps):
            middle = (low + high) / 2
            noisy = _output_with_noise(network, quantizer, noise * middle, batch)
            allowed = float((noisy - output).square().mean())
            low, high = (middle, high) if _accuracy(noisy, aims) > floor else (low, middle)
        for bits in constraints.options[name]:
            made = float((output_with(network, quantizer, bits, batch) - output).square().mean())
            values[name, bits] = made / (allowed or 1.0)
    return Sensitivity("adversarial-noise", values, 1 + extra + steps * len(quantized) + len(values))


def _accuracy(output: torch.Tensor, labels: torch.Tensor) -> float:
    return float((output.argmax(1) == labels).double().mean())


def _output_with_noise(
    network: TorchModule, quantizer: FakeQuant, noise: torch.Tensor, batch: torch.Tensor
) -> torch.Tensor:
    def add(node: Node, result: Any) -> Any:
        return result + noise if node is quantizer.node else result

    with torch.no_grad(), network.quantizers_off():
        first: torch.Tensor = network(batch, hook=add)[0]
    return first
