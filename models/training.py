"""Trains a float network by a recipe: one-cycle schedule, fixed seed, one thread."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch.nn.functional import cross_entropy

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    import numpy as np
    from numpy.typing import NDArray

    from qir.models.data.samples import Samples
    from qir.models.recipes import TrainingRecipe


def train(
    network: torch.nn.Module, samples: Samples, recipe: TrainingRecipe, progress: Callable[[int, float], None]
) -> torch.nn.Module:
    """Train in place on one thread, so that a second run on the same machine and torch gives the same weights.

    Args:
        network: a freshly built network.
        samples: the training images or texts; never those of search-validation or test.
        recipe: schedule and seed.
        progress: called after each epoch with its number (from 1) and its mean loss.

    Returns:
        The network, in eval mode.
    """
    torch.set_num_threads(1)
    generator = torch.Generator().manual_seed(recipe.seed)
    images = torch.from_numpy(samples.images)
    images = images.contiguous(memory_format=torch.channels_last) if images.ndim == 4 else images
    labels = torch.from_numpy(samples.labels)
    network = network.to(memory_format=torch.channels_last).train()  # type: ignore[call-overload]
    steps = len(labels) // recipe.batch
    optimizer = _optimizer(network, recipe)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, recipe.max_lr, total_steps=steps * recipe.epochs)
    for epoch in range(1, recipe.epochs + 1):
        total = 0.0
        order = torch.randperm(len(labels), generator=generator)[: steps * recipe.batch]
        for chosen in order.reshape(steps, recipe.batch):
            batch = images[chosen]
            if recipe.shift:
                batch = _augment(batch, recipe.shift, generator)
            loss = cross_entropy(network(batch), labels[chosen])
            optimizer.zero_grad()
            torch.autograd.backward(loss)
            optimizer.step()
            schedule.step()
            total += loss.item()
        progress(epoch, total / steps)
    return network.eval()


def _optimizer(network: torch.nn.Module, recipe: TrainingRecipe) -> torch.optim.Optimizer:
    parameters = network.parameters()
    if recipe.optimizer == "adam":
        return torch.optim.AdamW(parameters, recipe.max_lr, weight_decay=recipe.weight_decay)
    return torch.optim.SGD(parameters, recipe.max_lr, momentum=0.9, nesterov=True, weight_decay=recipe.weight_decay)


def _augment(batch: torch.Tensor, shift: int, generator: torch.Generator) -> torch.Tensor:
    """Flip half of the images [N, C, H, W] and shift the whole batch by the same random number of pixels."""
    height, width = batch.shape[2:]
    padded = torch.nn.functional.pad(batch, (shift, shift, shift, shift))
    top, left = torch.randint(0, 2 * shift + 1, (2,), generator=generator).tolist()
    moved = padded[:, :, top : top + height, left : left + width]
    flipped = torch.rand(len(batch), generator=generator) < 0.5
    return torch.where(flipped[:, None, None, None], moved.flip(3), moved)


def count_correct(file: Path, images: NDArray[np.float32], labels: NDArray[np.int64]) -> int:
    """Return the number of images that the ONNX file classifies rightly in ONNX Runtime on one thread.

    Args:
        file: path of an ONNX file with one input and one output of logits [N, classes].
        images: float32 [N, C, H, W].
        labels: int64 [N].
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    correct = 0
    for start in range(0, len(labels), 500):
        (logits,) = session.run(None, {name: images[start : start + 500]})
        correct += int((logits.argmax(1) == labels[start : start + 500]).sum())
    return correct
