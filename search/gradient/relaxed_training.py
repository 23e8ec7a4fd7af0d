"""One training loop for every method that learns schemes or bits by gradient together with the weights."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from qir.backends.torch.module import TorchModule
from qir.backends.training.data import cross_entropy, training_arrays
from qir.errors import DataError
from qir.search.gradient.relaxed import Relaxation

Progress = Callable[[int, int, float], None]
"""Told after every epoch: epoch, number of epochs, mean loss."""


@dataclass(slots=True)
class RelaxedTraining:
    """Trains a network's weights, and what its relaxed quantizers learn, with the labels' cross-entropy.

    Attributes:
        network: the network; its weights change.
        images: float32 [N, ...].
        labels: int64 [N].
        batch: images a step.
        learning_rate: of the weights (SGD, cosine to zero over the epochs of a run).
        momentum: of the weights.
        seed: order of the images.
        progress: told after every epoch.

    Raises:
        DataError: images and labels do not match.
    """

    network: TorchModule
    images: NDArray[np.float32]
    labels: NDArray[np.int64]
    batch: int
    learning_rate: float
    momentum: float
    seed: int
    progress: Progress | None = None

    def __post_init__(self) -> None:
        self.images, self.labels = training_arrays(self.images, self.labels)

    def run(
        self,
        relaxation: Relaxation,
        epochs: int,
        *,
        after: Callable[[float], None],
        optimizer: torch.optim.Optimizer | None = None,
        before: Callable[[int], None] | None = None,
        extra: Callable[[], Tensor] | None = None,
        clamp: Callable[[], None] | None = None,
    ) -> None:
        """Train for some epochs; deterministic under the seed.

        Args:
            relaxation: the hook that computes fake-quant nodes.
            epochs: passes over the images.
            after: told the mean loss of every epoch.
            optimizer: of what the relaxed quantizers learn, if they learn.
            before: called with the number of every epoch, from 0.
            extra: a loss that is added, for example of bits over a target.
            clamp: called after every step, to keep what is learned within its bounds.

        Raises:
            DataError: the loss is not finite.
        """
        self.network.require_gradients()
        parameters = list(self.network.trainable_constants().values())
        for parameter in parameters:
            parameter.requires_grad_(True)
        weights = torch.optim.SGD(parameters, lr=self.learning_rate, momentum=self.momentum)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(weights, max(epochs, 1))
        optimizers = [weights] if optimizer is None else [weights, optimizer]
        order = np.random.default_rng(self.seed)
        try:
            for epoch in range(epochs):
                if before is not None:
                    before(epoch)
                losses = []
                for chosen in _batches(order.permutation(len(self.images)), self.batch):
                    loss = self.loss(relaxation, chosen)
                    losses.append(_step(loss if extra is None else loss + extra(), optimizers))
                    if clamp is not None:
                        clamp()
                schedule.step()
                after(float(np.mean(losses)))
                if self.progress is not None:
                    self.progress(epoch + 1, epochs, float(np.mean(losses)))
        finally:
            for parameter in parameters:
                parameter.requires_grad_(False)
                parameter.grad = None
            self.network.forget_weights()

    def loss(self, relaxation: Relaxation, chosen: NDArray[np.int64]) -> Tensor:
        """Cross-entropy of some images."""
        device = self.network.device
        with self.network.quantizers_off():
            (logits, *_) = self.network(torch.from_numpy(self.images[chosen]).to(device), hook=relaxation)
        return cross_entropy(logits, torch.from_numpy(self.labels[chosen]).to(device))

    def see(self, relaxation: Relaxation) -> None:
        """Run one batch without training, so that every quantizer has seen data."""
        with torch.no_grad():
            self.loss(relaxation, np.arange(min(len(self.images), self.batch)))


def _step(loss: Tensor, optimizers: Sequence[torch.optim.Optimizer]) -> float:
    """Return one step down a loss; gives the loss."""
    value = float(loss.detach())
    if not np.isfinite(value):
        raise DataError(f"gradient search: the loss is {value}: lower the learning rate")
    for optimizer in optimizers:
        optimizer.zero_grad()
    loss.backward()  # type: ignore[no-untyped-call]
    for optimizer in optimizers:
        optimizer.step()
    return value


def _batches(order: NDArray[np.int64], batch: int) -> list[NDArray[np.int64]]:
    """Return whole batches in the given order; one smaller batch where there are not enough images for a whole one."""
    count = max(len(order) // batch, 1)
    return [order[index * batch : (index + 1) * batch] for index in range(count)]
