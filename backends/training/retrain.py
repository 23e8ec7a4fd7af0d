"""`retrain`: a copy of a module at a policy, with retrained weights and refreshed ranges."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch

from qir.backends.torch.module import TorchModule
from qir.backends.torch.weights import Recalibrate, fitted_ranges
from qir.backends.training.loop import LabelledSamples, Progress, RetrainProtocol, protocol, retrain_network
from qir.errors import DataError
from qir.fake_quant import FakeQuant
from qir.module import Module
from qir.policy import Policy
from qir.tensor import Array

_BATCH = 250


def refreshed_ranges(quantizer: FakeQuant, weight: Array) -> Array:
    """Return ranges of a retrained weight.

    Those it was trained at where it has its bits, fitted anew at the other widths.

    Args:
        quantizer: the weight's, at the bits that were trained.
        weight: retrained values.

    Returns:
        float32 [widths, channels or 1, 2].

    Raises:
        QirError: a scheme refuses a width.
    """
    ranges, bits = fitted_ranges(quantizer, weight), quantizer.bits
    for width in {bits} if isinstance(bits, int) else set(bits) - {0}:
        if quantizer.is_calibrated:
            ranges[quantizer.widths.index(width)] = quantizer.ranges(width)
    return ranges


def retrain(
    module: Module,
    policy: Policy,
    samples: LabelledSamples,
    plan: RetrainProtocol | str = "short",
    *,
    validation: LabelledSamples | None = None,
    recalibrate: Recalibrate = refreshed_ranges,
    device: torch.device | str = "cpu",
    progress: Progress | bool = False,
    checkpoint: Path | str | None = None,
) -> Module:
    """Retrain a calibrated module at a policy.

        made = retrain(module, policy, samples, "qat-distillation", progress=True)

    Args:
        module: network with calibrated fake-quant nodes; not changed.
        policy: width of every quantizer to set.
        samples: the retraining split.
        plan: the protocol, or the name of a preset.
        validation: samples that accuracy is measured on; protocols with `patience` need them.
        recalibrate: ranges of changed weights; without another rule the widths in use keep the ranges that were
            trained, the others are fitted to the new weights.
        device: where to train.
        progress: told after every step; True shows a bar.
        checkpoint: file that holds the state of the run; when it is there, the run goes on where it stopped.

    Returns:
        A copy of the module at the policy with the retrained weights.

    Raises:
        QirError: the policy names a quantizer that does not exist, or a width without ranges; no such preset.
        DataError: there are no images, labels do not fit, the loss is not finite, or the checkpoint belongs to another
            run.
    """
    chosen = protocol(plan) if isinstance(plan, str) else plan
    made = module.clone()
    network = TorchModule(made, device)
    network.set_policy(policy)
    for node in made.graph.fake_quants():
        FakeQuant(node).bits = network.policy[node.name]
    with _progress(progress, chosen.steps_for(len(samples.images))) as told:
        retrain_network(
            network,
            samples.images,
            samples.labels,
            chosen,
            progress=told,
            validate=None if validation is None else lambda: accuracy(network, validation),
            checkpoint=checkpoint,
        )
    network.write_back(made, recalibrate=recalibrate)
    return made


@contextmanager
def _progress(asked: Progress | bool, steps: int) -> Iterator[Progress | None]:
    """Tell after every step: the caller's function, a bar with the mean loss of late, or nothing."""
    if not isinstance(asked, bool):
        yield asked
        return
    if not asked:
        yield None
        return
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
    from rich.progress import Progress as Bar

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Bar(*columns) as bar:
        task, mean = bar.add_task("retraining", total=steps), 0.0

        def tell(step: int, _: int, loss: float) -> None:
            nonlocal mean
            mean = loss if step == 1 else 0.9 * mean + 0.1 * loss
            bar.update(task, completed=step, description=f"retraining, loss {mean:.3f}")

        yield tell


def accuracy(network: TorchModule, samples: LabelledSamples) -> float:
    """Share of samples whose largest output is their label, at the network's bits; `DataError` without samples."""
    if not len(samples.images):
        raise DataError("accuracy: there are no samples to measure on")
    right = 0
    with torch.no_grad():
        for start in range(0, len(samples.images), _BATCH):
            images = torch.from_numpy(np.asarray(samples.images[start : start + _BATCH])).to(network.device)
            (logits, *_) = network(images)
            right += int((logits.argmax(1).cpu().numpy() == samples.labels[start : start + _BATCH]).sum())
    return right / len(samples.images)
