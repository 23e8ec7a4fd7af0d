"""How the networks that can be trained on a laptop are trained, and on which images."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from qir.errors import DataError
from qir.models.data.cifar10 import cifar10
from qir.models.data.fashion_mnist import TRAIN_RANGES, fashion_mnist, fashion_mnist_full, float_training_indices
from qir.models.data.samples import Samples
from qir.models.data.spam_assassin import spam_assassin

if TYPE_CHECKING:
    from pathlib import Path


@dataclass(frozen=True, slots=True)
class TrainingRecipe:
    """How a network is trained.

    Attributes:
        network: name in `qir.models.builders`.
        data: `fashion-mnist`, `cifar-10` or `spam-assassin`.
        epochs: passes over the training images.
        batch: images per step; the last, smaller batch of an epoch is dropped.
        max_lr: peak of the one-cycle learning rate.
        optimizer: `adam` (decoupled weight decay) or `sgd` (Nesterov momentum 0.9).
        weight_decay: factor of the decay.
        seed: seeds weights, order and augmentation.
        shift: largest random shift in pixels (zero-padded), with a random horizontal flip; 0 = no augmentation.
        options: keyword arguments of the network.
    """

    network: str
    data: str
    epochs: int
    batch: int
    max_lr: float
    optimizer: str
    weight_decay: float
    seed: int = 0
    shift: int = 0
    options: dict[str, Any] = field(default_factory=dict)


def _fashion(network: str, epochs: int, shift: int = 0) -> TrainingRecipe:
    """Adam without augmentation; SGD with it, for residual networks."""
    if shift:
        return TrainingRecipe(
            network, "fashion-mnist", epochs, 128, 0.15, "sgd", 5e-4, shift=shift, options={"channels": 1}
        )
    return TrainingRecipe(network, "fashion-mnist", epochs, 128, 0.01, "adam", 0.01, options={"channels": 1})


def _cifar(network: str, epochs: int, **options: Any) -> TrainingRecipe:
    return TrainingRecipe(network, "cifar-10", epochs, 128, 0.1, "sgd", 5e-4, shift=3, options=options)


RECIPES: dict[str, TrainingRecipe] = {
    "lenet": _fashion("lenet", 3),
    "lenet-plain": TrainingRecipe("lenet-plain", "fashion-mnist", 3, 128, 0.003, "adam", 0.01, options={"channels": 1}),
    "lenet-5": TrainingRecipe("lenet-5", "fashion-mnist", 5, 128, 0.005, "adam", 0.01, options={"channels": 1}),
    "residual": _fashion("residual", 6, shift=2),
    "resnet-20": _fashion("resnet-20", 10, shift=2),
    "simplenet-5": TrainingRecipe("simplenet-5", "cifar-10", 10, 128, 0.005, "adam", 0.01, shift=3),
    "resnet-20-cifar": _cifar("resnet-20", 10),
    "vgg-11-cifar": _cifar("vgg-11", 6, width=0.25),
    "vgg-like-cifar": _cifar("vgg-like", 6, width=0.25),
    "lstm-text-spam": TrainingRecipe(
        "lstm-text", "spam-assassin", 6, 64, 0.003, "adam", 0.01, options={"classes": 2, "units": 128}
    ),
}
"""The recipes by name; those of `qir.models.names()` made the files that come with qir."""

_CIFAR_STRIDE = 25
_SPAM_STRIDE = 5


@dataclass(frozen=True, slots=True, eq=False)
class TrainingData:
    """What a recipe trains and measures on; the parts are disjoint.

    Attributes:
        samples: training images.
        left_out: which training images are not among them, in words.
        measured: the splits whose accuracy goes into the card.
    """

    samples: Samples
    left_out: str
    measured: dict[str, Samples]


def training_data(name: str, path: str | Path | None = None) -> TrainingData:
    """Return the images of a data set, split for float training.

    Args:
        name: `fashion-mnist`: all training images but those of search-validation. `cifar-10`: likewise, where
            search-validation is every 25th training image. `spam-assassin`: likewise, every fifth training mail.
        path: where the full set is; the reader's default otherwise.

    Raises:
        DataError: there is no such data set, or its files are not there.
    """
    if name == "fashion-mnist":
        full, chosen = fashion_mnist_full("train", path), float_training_indices()
        first, last = TRAIN_RANGES["search-validation"]
        measured = {"search-validation": fashion_mnist("search-validation"), "test": fashion_mnist("test")}
        return TrainingData(_select(full, chosen), f"{first} <= index < {last} (search-validation)", measured)
    if name == "cifar-10":
        return _held_out(cifar10("train", path), cifar10("test", path), _CIFAR_STRIDE)
    if name == "spam-assassin":
        return _held_out(spam_assassin("train", path), spam_assassin("test", path), _SPAM_STRIDE)
    raise DataError(f"no recipe trains on {name!r}; expected fashion-mnist, cifar-10 or spam-assassin")


def _held_out(full: Samples, test: Samples, stride: int) -> TrainingData:
    """Hold every sample at the end of a stride out for search-validation; the others train."""
    held = np.arange(len(full)) % stride == stride - 1
    measured = {"search-validation": _select(full, np.flatnonzero(held)), "test": test}
    left_out = f"index % {stride} == {stride - 1} (search-validation)"
    return TrainingData(_select(full, np.flatnonzero(~held)), left_out, measured)


def _select(samples: Samples, indices: np.ndarray[Any, np.dtype[np.int64]]) -> Samples:
    return Samples(samples.images[indices], samples.labels[indices], samples.split)
