"""Retraining of a quantized network with straight-through gradients: protocols and the loop.

`qir.backends.retrain` runs it on a module at a policy; this works on the executor, at whatever bits it has.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812 - the name that PyTorch's own documentation uses

from qir.backends.affine_correction import AffineCorrection
from qir.backends.checkpoint import load_checkpoint, save_checkpoint
from qir.backends.torch_module import TorchModule
from qir.errors import DataError, QirError
from qir.tensor import Array

Progress = Callable[[int, int, float], None]
"""Told after every step: step, number of steps, loss."""


class Samples(Protocol):
    """Images with labels (`qir.models` returns such)."""

    @property
    def images(self) -> Array:
        """Images float32 [N, …]."""

    @property
    def labels(self) -> Array:
        """Labels int64 [N]."""


@dataclass(frozen=True, slots=True)
class RetrainProtocol:
    """How a network is retrained at a fixed policy.

    Attributes:
        steps: optimizer steps (SGD), unless `epochs` says otherwise.
        images: how many of the retraining split are used, 0 = all.
        batch: images a step.
        learning_rate: of the first step.
        decay: the learning rate is multiplied by this `decay_times` times over the run; 0 = cosine to zero.
        decay_times: number of decays.
        momentum, weight_decay: of SGD.
        distillation: weight of the cross-entropy with the float network's probabilities; the labels have the rest.
        seed: order of the images.
        epochs: passes over the images, in place of `steps`; 0 = `steps` counts.
        temperature: both networks' logits are divided by it for distillation, whose loss is multiplied by its square.
        range_learning_rate: of learned ranges (LSQ, PACT); 0 = they stay fixed.
        validate_every: steps between two calls of the validation function.
        patience: stop after so many validations without a new best, and go back to the best; 0 = never.
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
    epochs: float = 0.0
    temperature: float = 1.0
    range_learning_rate: float = 0.0
    validate_every: int = 50
    patience: int = 0

    def __post_init__(self) -> None:
        if self.steps < 0 or self.batch < 1 or not 0 <= self.distillation <= 1 or self.learning_rate <= 0:
            raise QirError(f"{self}: expected steps >= 0, batch >= 1, learning rate > 0, distillation 0 to 1")
        if self.epochs < 0 or self.temperature <= 0 or self.validate_every < 1 or self.range_learning_rate < 0:
            raise QirError(f"{self}: expected epochs >= 0, temperature > 0, validate_every >= 1, rates >= 0")

    def steps_for(self, images: int) -> int:
        """Number of steps for so many images of the split."""
        used = min(images, self.images) if self.images else images
        return math.ceil(self.epochs * math.ceil(used / self.batch)) if self.epochs else self.steps

    def rate(self, step: int, steps: int | None = None) -> float:
        """Learning rate of a step, of `steps` altogether."""
        total = max(self.steps if steps is None else steps, 1)
        if self.decay == 0:
            return self.learning_rate * 0.5 * (1 + math.cos(math.pi * step / total))
        return float(self.learning_rate * self.decay ** (step * self.decay_times // total))


PRESETS = {
    "short": RetrainProtocol(steps=40),
    "final": RetrainProtocol(steps=150),
    "wang2024": RetrainProtocol(images=200, batch=50, epochs=100, decay=0.8, decay_times=20),
    "haq": RetrainProtocol(
        epochs=1, images=20_000, batch=128, learning_rate=1e-3, decay=0.8, decay_times=0, weight_decay=4e-5
    ),
    "releq-short": RetrainProtocol(epochs=5, batch=256, learning_rate=0.01, decay=1.0),
    "releq-long": RetrainProtocol(epochs=30, batch=256, learning_rate=0.01),
    "qat-distillation": RetrainProtocol(epochs=10, batch=128, distillation=0.5, temperature=2.0),
    "learned-step": RetrainProtocol(epochs=10, batch=128, range_learning_rate=0.01),
}
"""Protocols by name.

`wang2024` has seed 000's learning rate 0.01, decay 0.8, 200 images and 100 epochs; how often it decays is not printed
there: 20 times is ours. `haq` is one epoch of HAQ's search script (Wang et al., 2019: 20,000 images, rate 1e-3, batch
128, weight decay 4e-5). `releq-short` has the five epochs at 0.01 that ReLeQ's script gives LeNet (Elthakeb et al.,
2018); its batch, and `releq-long`'s length, are ours. The others are qir's own.
"""


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
    validate: Callable[[], float] | None = None,
    checkpoint: Path | None = None,
) -> list[float]:
    """Train the network's weights and biases in place at its bits; deterministic under the protocol's seed.

    Args:
        network: network at a policy.
        images: float32 [N, …] of the retraining split.
        labels: int64 [N].
        plan: the protocol.
        correction: affine correction that stays in force.
        progress: told after every step.
        validate: measures the network, larger is better; called every `validate_every` steps when `patience` is set.
        checkpoint: file that holds the state of the run; when it is there, the run goes on where it stopped.

    Returns:
        The loss of every step.

    Raises:
        DataError: there are no images, the loss is not finite, or the checkpoint belongs to another run.
    """
    if len(images) == 0 or len(images) != len(labels):
        raise DataError(f"retraining got {len(images)} images and {len(labels)} labels: expected as many, at least one")
    run = _Run(network, plan, correction, plan.steps_for(len(images)))
    if plan.images:
        images, labels = images[: plan.images], labels[: plan.images]
    try:
        run.resume(checkpoint)
        for step, chosen in enumerate(_batches(len(images), plan, run.steps)):
            if step < len(run.losses):
                continue
            loss = run.step(step, images[chosen], labels[chosen])
            if progress is not None:
                progress(step + 1, run.steps, loss)
            due = (step + 1) % plan.validate_every == 0 or step + 1 == run.steps
            if due and run.is_over(validate):
                break
            if due:
                run.save(checkpoint)
    finally:
        run.finish()
    return run.losses


@dataclass
class _Run:
    """The state of one retraining."""

    network: TorchModule
    plan: RetrainProtocol
    correction: AffineCorrection | None
    steps: int
    losses: list[float] = field(default_factory=list)
    best: float = -math.inf
    waited: int = 0
    best_weights: list[torch.Tensor] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.weights = list(self.network.trainable_constants().values())
        self.ranges = list(self.network.learn_ranges().values()) if self.plan.range_learning_rate else []
        for parameter in self.weights + self.ranges:
            parameter.requires_grad_(True)
        groups: list[dict[str, Any]] = [{"params": self.weights, "weight_decay": self.plan.weight_decay, "factor": 1.0}]
        if self.ranges:
            factor = self.plan.range_learning_rate / self.plan.learning_rate
            groups.append({"params": self.ranges, "weight_decay": 0.0, "factor": factor})
        self.optimizer = torch.optim.SGD(groups, lr=self.plan.learning_rate, momentum=self.plan.momentum)
        self.first = [weight.detach().clone() for weight in self.weights] if self.plan.distillation else []

    def step(self, index: int, images: Array, labels: Array) -> float:
        """One optimizer step; its loss."""
        for group in self.optimizer.param_groups:
            group["lr"] = self.plan.rate(index, self.steps) * group["factor"]
        device = self.network.device
        loss = self._loss(torch.from_numpy(images).to(device), torch.from_numpy(labels).to(device))
        self.optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        self.optimizer.step()
        self.losses.append(loss.item())
        if not math.isfinite(self.losses[-1]):
            raise DataError(f"retraining: the loss of step {index + 1} is {self.losses[-1]}: lower the learning rate")
        return self.losses[-1]

    def is_over(self, validate: Callable[[], float] | None) -> bool:
        """Validate and remember the best; whether patience is used up."""
        if validate is None or not self.plan.patience:
            return False
        found = validate()
        if found > self.best:
            self.best, self.waited = found, 0
            self.best_weights = [parameter.detach().clone() for parameter in self.weights + self.ranges]
        else:
            self.waited += 1
        return self.waited >= self.plan.patience

    def finish(self) -> None:
        """Go back to the best weights, and stop asking for gradients."""
        with torch.no_grad():
            for parameter, best in zip(self.weights + self.ranges, self.best_weights, strict=False):
                parameter.copy_(best)
        for parameter in self.weights + self.ranges:
            parameter.requires_grad_(False)
            parameter.grad = None
        self.network.forget_weights()

    def save(self, path: Path | None) -> None:
        """Write the state."""
        if path is not None:
            best = {"best": self.best, "waited": self.waited, "best_weights": self.best_weights}
            state = {"parameters": [p.detach() for p in self.weights + self.ranges], "losses": self.losses, **best}
            save_checkpoint(path, self._identity(), state | {"optimizer": self.optimizer.state_dict()})

    def resume(self, path: Path | None) -> None:
        """Read the state when there is one."""
        state = None if path is None else load_checkpoint(path, self._identity())
        if state is None:
            return
        with torch.no_grad():
            for parameter, saved in zip(self.weights + self.ranges, state["parameters"], strict=True):
                parameter.copy_(saved)
        self.optimizer.load_state_dict(state["optimizer"])
        self.losses, self.best, self.waited = list(state["losses"]), state["best"], state["waited"]
        self.best_weights = state["best_weights"]

    def _loss(self, images: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        (logits, *_) = self.network(images, hook=self.correction)
        loss = F.cross_entropy(logits, labels)
        if self.plan.distillation:
            share, temperature = self.plan.distillation, self.plan.temperature
            soft = F.cross_entropy(logits / temperature, (self._teacher(images) / temperature).softmax(1))
            loss = (1 - share) * loss + share * temperature**2 * soft
        return loss

    def _teacher(self, images: torch.Tensor) -> torch.Tensor:
        """Logits of the float network: without quantizers, at the weights that the run began with."""
        self._exchange_weights()
        with torch.no_grad(), self.network.quantizers_off():
            logits: torch.Tensor = self.network(images)[0]
        self._exchange_weights()
        return logits

    def _exchange_weights(self) -> None:
        for weight, first in zip(self.weights, self.first, strict=True):
            weight.data, first.data = first.data, weight.data

    def _identity(self) -> str:
        return f"{self.plan} {sorted(self.network.policy.items())} {sum(p.numel() for p in self.weights)}"


def _batches(count: int, plan: RetrainProtocol, steps: int) -> Iterator[Any]:
    generator = np.random.default_rng(plan.seed)
    order, start = generator.permutation(count), 0
    for _ in range(steps):
        if start >= count or (start + plan.batch > count and plan.batch <= count and not plan.epochs):
            order, start = generator.permutation(count), 0
        yield order[start : start + plan.batch]
        start += plan.batch
