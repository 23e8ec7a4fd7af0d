"""Retraining of a quantized network with straight-through gradients: the loop.

`qir.backends.retrain` runs it on a module at a policy; this works on the executor, at whatever bits it has.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812 - the name that PyTorch's own documentation uses

from qir.backends.torch.module import TorchModule
from qir.backends.training.affine_correction import AffineCorrection
from qir.backends.training.checkpoint import load_checkpoint, save_checkpoint
from qir.backends.training.data import cross_entropy, training_arrays
from qir.backends.training.protocol import PRESETS, RetrainProtocol, protocol
from qir.errors import DataError, QirError
from qir.tensor import Array

__all__ = ["PRESETS", "LabelledSamples", "Progress", "RetrainProtocol", "protocol", "retrain_network"]

Progress = Callable[[int, int, float], None]
"""Told after every step: step, number of steps, loss."""


class LabelledSamples(Protocol):
    """Images with labels (`qir.models` returns such)."""

    @property
    def images(self) -> Array:
        """Images float32 [N, …]."""

    @property
    def labels(self) -> Array:
        """Labels int64 [N]."""


def retrain_network(
    network: TorchModule,
    images: Array,
    labels: Array,
    plan: RetrainProtocol,
    *,
    correction: AffineCorrection | None = None,
    progress: Progress | None = None,
    validate: Callable[[], float] | None = None,
    checkpoint: Path | str | None = None,
) -> list[float]:
    """Train the network's weights and biases in place at its bits; deterministic under the protocol's seed.

    Args:
        network: network at a policy.
        images: [N, …] of the retraining split.
        labels: integers [N], or probabilities [N, classes].
        plan: the protocol.
        correction: affine correction that stays in force.
        progress: told after every step.
        validate: measures the network, larger is better; called every `validate_every` steps when `patience` is set.
        checkpoint: file that holds the state of the run; when it is there, the run goes on where it stopped.

    Returns:
        The loss of every step.

    Raises:
        DataError: there are no images, labels do not fit, the loss is not finite, or the checkpoint belongs to another
            run.
        QirError: the protocol has patience, and there is nothing to validate with.
    """
    images, labels = training_arrays(images, labels)
    if plan.patience and validate is None:
        raise QirError("retraining: the protocol stops early (patience), but has nothing to validate with: give it")
    if plan.images:
        images, labels = images[: plan.images], labels[: plan.images]
    file = None if checkpoint is None else Path(checkpoint)
    run = _Run(network, plan, correction, plan.steps_for(len(images)), _digest(images, labels))
    try:
        run.resume(file)
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
                run.save(file)
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
    data: str
    losses: list[float] = field(default_factory=list)
    best: float = -math.inf
    waited: int = 0
    best_weights: list[torch.Tensor] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.network.require_gradients()
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
        started = _digest(*(parameter.detach().cpu().numpy() for parameter in self.weights + self.ranges))
        self.identity = f"{self.plan} {sorted(self.network.policy.items())} {started} {self.data}"

    def step(self, index: int, images: Array, labels: Array) -> float:
        """Return one optimizer step; its loss."""
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
            save_checkpoint(path, self.identity, state | {"optimizer": self.optimizer.state_dict()})

    def resume(self, path: Path | None) -> None:
        """Read the state when there is one."""
        state = None if path is None else load_checkpoint(path, self.identity)
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
        loss = cross_entropy(logits, labels)
        if self.plan.distillation:
            share, temperature = self.plan.distillation, self.plan.temperature
            soft = F.cross_entropy(logits / temperature, (self._teacher(images) / temperature).softmax(1))
            loss = (1 - share) * loss + share * temperature**2 * soft
        return loss

    def _teacher(self, images: torch.Tensor) -> torch.Tensor:
        """Return logits of the float network: without quantizers, at the weights that the run began with."""
        self._exchange_weights()
        with torch.no_grad(), self.network.quantizers_off():
            logits: torch.Tensor = self.network(images)[0]
        self._exchange_weights()
        return logits

    def _exchange_weights(self) -> None:
        for weight, first in zip(self.weights, self.first, strict=True):
            weight.data, first.data = first.data, weight.data


def _digest(*arrays: Array) -> str:
    digest = hashlib.sha256()
    for array in arrays:
        digest.update(f"{array.shape}{array.dtype}".encode())
        digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()


def _batches(count: int, plan: RetrainProtocol, steps: int) -> Iterator[Any]:
    generator = np.random.default_rng(plan.seed)
    order, start = generator.permutation(count), 0
    for _ in range(steps):
        if start >= count or (start + plan.batch > count and plan.batch <= count and not plan.epochs):
            order, start = generator.permutation(count), 0
        yield order[start : start + plan.batch]
        start += plan.batch
