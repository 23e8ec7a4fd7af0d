"""Calibration data without data: images distilled from the statistics that BatchNorm stores.

ZeroQ (Cai et al., 2020, section 3.1): inputs start as noise and are changed by gradient descent until mean and standard
deviation of what every BatchNormalization reads are those that it stores. Folding takes the statistics away, so this
runs before it.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import torch

from qir.backends.torch.module import TorchModule
from qir.errors import QirError
from qir.graph import Node
from qir.module import Module
from qir.tensor import Array
from qir.types import TensorType

Moments = dict[Node, tuple[torch.Tensor, torch.Tensor]]


def distill_data(
    module: Module, *, samples: int = 64, iterations: int = 500, learning_rate: float = 0.5, seed: int = 0
) -> Array:
    """Return a batch whose activations have the statistics of the BatchNormalizations of a float network.

    The loss is the sum over all of them of the squared distances of mean and standard deviation over batch and places,
    and of those of the input to 0 and 1; Adam, its step divided by 10 where the loss no longer falls.

    Args:
        module: network with one float input, BatchNormalizations not folded.
        samples: how many are made.
        iterations: steps of the optimizer.
        learning_rate: of Adam.
        seed: of the noise.

    Returns:
        float32 [samples, …], as `calibrate` takes it.

    Raises:
        QirError: the network has no BatchNormalization with constant statistics, not one input, or unknown dimensions.
    """
    stored = _stored(module)
    generator = torch.Generator().manual_seed(seed)
    data = torch.randn((samples, *_shape(module)), generator=generator).requires_grad_()
    network = TorchModule(module)
    network.require_gradients()
    optimizer = torch.optim.Adam([data], lr=learning_rate)
    schedule = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, patience=100, min_lr=1e-4)
    best, least = data.detach().clone(), float("inf")
    with network.quantizers_off():
        for _ in range(iterations):
            optimizer.zero_grad()
            loss = _distance(_observed(network, stored, data), stored) + _input_distance(data)
            if loss.item() < least:
                best, least = data.detach().clone(), loss.item()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            schedule.step(loss.item())
    return np.asarray(best.numpy())


def statistics_distance(module: Module, data: Array) -> float:
    """Return sum over the BatchNormalizations of the squared distance between the data's moments and the stored ones.

    Raises:
        QirError: the network has no BatchNormalization with constant statistics.
    """
    stored, network = _stored(module), TorchModule(module)
    with torch.no_grad(), network.quantizers_off():
        return _distance(_observed(network, stored, torch.from_numpy(data)), stored).item()


def _stored(module: Module) -> Moments:
    found = {}
    for node in module.graph:
        if node.op != "BatchNormalization" or node.domain not in {"", "ai.onnx"}:
            continue
        mean, variance = (value.constant for value in node.operands[3:5])
        if mean is not None and variance is not None:
            deviation = np.sqrt(variance.numpy() + node.attribute("epsilon", 1e-5))
            found[node] = (torch.tensor(mean.numpy()), torch.tensor(deviation))
    if not found:
        raise QirError(
            "distillation: the network has no BatchNormalization with stored statistics: run it before folding, or "
            "give calibration data"
        )
    return found


def _shape(module: Module) -> tuple[int, ...]:
    inputs = [value for value in module.graph.inputs if value.constant is None]
    kind = inputs[0].type if len(inputs) == 1 else None
    if not isinstance(kind, TensorType) or not kind.dtype.is_float or kind.shape is None:
        raise QirError(f"distillation takes networks with one float input of known shape; found {len(inputs)} inputs")
    sizes = tuple(size for size in kind.shape[1:] if isinstance(size, int))
    if len(sizes) != len(kind.shape) - 1:
        raise QirError(f"distillation: input {inputs[0].name!r} has the shape {kind}: fix all dimensions but the first")
    return sizes


def _observed(network: TorchModule, nodes: Iterable[Node], data: torch.Tensor) -> Moments:
    names = {node: node.operands[0].name for node in nodes}
    values: Any = network(data, intermediates=sorted(set(names.values())))
    found = {}
    for node, name in names.items():
        value = values[name]
        axes = [axis for axis in range(value.ndim) if axis != 1]
        found[node] = (value.mean(axes), (value.var(axes, correction=0) + node.attribute("epsilon", 1e-5)).sqrt())
    return found


def _distance(found: Moments, stored: Moments) -> torch.Tensor:
    terms = [((a - b) ** 2).sum() for node in stored for a, b in zip(found[node], stored[node], strict=True)]
    return torch.stack(terms).sum()


def _input_distance(data: torch.Tensor) -> torch.Tensor:
    axes = [axis for axis in range(data.ndim) if axis != 1]
    return (data.mean(axes) ** 2).sum() + ((data.std(axes) - 1) ** 2).sum()
