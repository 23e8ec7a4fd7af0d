"""Short retraining of a quantized network with straight-through gradients."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812 - the name that PyTorch's own documentation uses

from qir.backends.affine_correction import AffineCorrection
from qir.backends.torch_module import TorchModule
from qir.errors import DataError, QirError
from qir.tensor import Array

Progress = Callable[[int, int, float], None]
"""Told after every step: step, number of steps, loss."""


@dataclass(frozen=True, slots=True)
class RetrainProtocol:
    """How a network is retrained at a fixed policy.

    Attributes:
        steps: optimizer steps (SGD).
        images: how many of the retraining split are used, 0 = all.
        batch: images a step.
        learning_rate: of the first step.
        decay: the learning rate is multiplied by this `decay_times` times over the run; 0 = cosine to zero.
        decay_times: number of decays.
        momentum, weight_decay: of SGD.
        distillation: weight of the cross-entropy with the float network's probabilities; the labels have the rest.
        seed: order of the images.
    """

    steps: int = 100
    images: int = 0
    batch: int = 64
    learning_rate: float = 0.01
    decay: float = 0.0
    decay_times: int = 5
    momentum: float = 0.9
    weight_decay: float = 0.0
    distillation: float = 0.0
    seed: int = 0

    def __post_init__(self) -> None:
        if self.steps < 0 or self.batch < 1 or not 0 <= self.distillation <= 1 or self.learning_rate <= 0:
            raise QirError(f"retraining protocol {self}: steps >= 0, batch >= 1, learning rate > 0, distillation 0 to 1")

    def rate(self, step: int) -> float:
        """Learning rate of a step."""
        if self.decay == 0:
            return self.learning_rate * 0.5 * (1 + math.cos(math.pi * step / max(self.steps, 1)))
        return float(self.learning_rate * self.decay ** (step * self.decay_times // max(self.steps, 1)))


PRESETS = {
    "short": RetrainProtocol(steps=40),
    "final": RetrainProtocol(steps=150),
    "wang2024": RetrainProtocol(steps=400, images=200, batch=50, decay=0.8, decay_times=20),
    "haq": RetrainProtocol(steps=157, images=20_000, batch=128, learning_rate=1e-3, decay=0.8, weight_decay=4e-5),
    "qat-distillation": RetrainProtocol(steps=600, distillation=0.5),
}
"""Protocols by name: `wang2024` has seed 000's learning rate 0.01, decay 0.8 and 200 images (100 epochs of 4 steps);
`haq` one epoch of HAQ's search script; the others are qir's own."""


def protocol(name: str, **changes: Any) -> RetrainProtocol:
    """A preset, with some fields changed.

    Raises:
        QirError: there is no such preset.
    """
    if name not in PRESETS:
        raise QirError(f"retraining protocol {name!r} is unknown; expected one of {', '.join(PRESETS)}")
    return replace(PRESETS[name], **changes)


def retrain(
    network: TorchModule,
    images: Array,
    labels: Array,
    plan: RetrainProtocol,
    *,
    correction: AffineCorrection | None = None,
    progress: Progress | None = None,
) -> list[float]:
    """Train the network's weights and biases in place at its bits; deterministic under the protocol's seed.

    Args:
        network: network at a policy.
        images: float32 [N, …] of the retraining split.
        labels: int64 [N].
        plan: the protocol.
        correction: affine correction that stays in force.
        progress: told after every step.

    Returns:
        The loss of every step.

    Raises:
        DataError: there are no images, or the loss is not finite.
    """
    if len(images) == 0 or len(images) != len(labels):
        raise DataError(f"retraining got {len(images)} images and {len(labels)} labels: expected as many of both, at least one")
    if plan.images:
        images, labels = images[: plan.images], labels[: plan.images]
    parameters = list(network.trainable_constants().values())
    for parameter in parameters:
        parameter.requires_grad_(True)
    optimizer = torch.optim.SGD(parameters, lr=plan.learning_rate, momentum=plan.momentum, weight_decay=plan.weight_decay)
    generator = np.random.default_rng(plan.seed)
    losses = []
    try:
        for step, chosen in enumerate(_batches(len(images), plan, generator)):
            for group in optimizer.param_groups:
                group["lr"] = plan.rate(step)
            loss = _loss(network, torch.from_numpy(images[chosen]).to(network.device), torch.from_numpy(labels[chosen]).to(network.device), plan, correction)
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            losses.append(loss.item())
            if not math.isfinite(losses[-1]):
                raise DataError(f"retraining: the loss of step {step + 1} is {losses[-1]}: lower the learning rate")
            if progress is not None:
                progress(step + 1, plan.steps, losses[-1])
    finally:
        for parameter in parameters:
            parameter.requires_grad_(False)
            parameter.grad = None
        network.forget_weights()
    return losses


def _loss(
    network: TorchModule, images: torch.Tensor, labels: torch.Tensor, plan: RetrainProtocol, correction: AffineCorrection | None
) -> torch.Tensor:
    (logits, *_) = network(images, hook=correction)
    loss = F.cross_entropy(logits, labels)
    if plan.distillation:
        with torch.no_grad(), network.quantizers_off():
            (teacher, *_) = network(images)
        soft = F.cross_entropy(logits, teacher.softmax(1))
        loss = (1 - plan.distillation) * loss + plan.distillation * soft
    return loss


def _batches(count: int, plan: RetrainProtocol, generator: np.random.Generator) -> Any:
    order, start = generator.permutation(count), 0
    for _ in range(plan.steps):
        if start + plan.batch > count:
            order, start = generator.permutation(count), 0
        yield order[start : start + plan.batch]
        start += plan.batch
