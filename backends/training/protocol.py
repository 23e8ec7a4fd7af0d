"""Protocols of retraining: how long, how fast, on how many images, with whose help."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

from qir.errors import QirError


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
        if min(self.steps, self.images, self.epochs, self.patience, self.decay, self.decay_times) < 0:
            raise QirError(f"{self}: expected steps, images, epochs, patience, decay and decay_times of 0 or more")
        if min(self.batch, self.validate_every) < 1 or not 0 < self.learning_rate < math.inf:
            raise QirError(f"{self}: expected batch and validate_every of 1 or more, and a learning rate above 0")
        if min(self.range_learning_rate, self.weight_decay) < 0 or not self.temperature > 0:
            raise QirError(f"{self}: expected range_learning_rate and weight_decay of 0 or more, temperature above 0")
        if not (0 <= self.distillation <= 1 and 0 <= self.momentum < 1):
            raise QirError(f"{self}: expected distillation of 0 to 1 and momentum of 0 to below 1")

    def steps_for(self, images: int) -> int:
        """Return the number of steps for so many images of the split."""
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
    """Return a preset, with some fields changed.

    Raises:
        QirError: there is no such preset.
    """
    if name not in PRESETS:
        raise QirError(f"retraining protocol {name!r} is unknown; expected one of {', '.join(PRESETS)}")
    return replace(PRESETS[name], **changes)
