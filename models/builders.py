"""Builds a network of the papers by its name, and writes it as ONNX with random weights for tests and benchmarks."""

from __future__ import annotations

import importlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qir.errors import DataError

if TYPE_CHECKING:
    from torch import Tensor, nn


@dataclass(frozen=True, slots=True)
class Entry:
    """Where a network is defined and what it is built with.

    Attributes:
        module: submodule of `qir.models.networks`.
        function: class or function that builds it.
        input_shape: the papers' input without the batch: [channels, height, width], or [length] of token ids.
        source: where the shape comes from.
        options: keyword arguments of the function.
    """

    module: str
    function: str
    input_shape: tuple[int, ...]
    source: str
    options: dict[str, Any] = field(default_factory=dict)

    @property
    def takes_tokens(self) -> bool:
        """Whether the input is token ids (int64), not an image (float32)."""
        return len(self.input_shape) == 1


NETWORKS: dict[str, Entry] = {
    "lenet": Entry("lenet", "LeNet", (1, 28, 28), "Caffe's LeNet, BatchNorm added"),
    "lenet-plain": Entry("lenet", "LeNet", (1, 28, 28), "Caffe's LeNet", {"batch_norm": False}),
    "lenet-5": Entry("lenet", "LeNet5", (1, 28, 28), "LeCun et al., 1998, with ReLU and max pooling"),
    "simplenet-5": Entry("lenet", "LeNet5", (3, 32, 32), "ReLeQ, reconstructed", {"padding": 0, "channels": 3}),
    "residual": Entry("resnet", "small_resnet", (3, 32, 32), "He et al., 6n + 2 layers, n = 1", {"blocks": 1}),
    "resnet-20": Entry("resnet", "small_resnet", (3, 32, 32), "He et al., 6n + 2 layers, n = 3", {"blocks": 3}),
    "resnet-18": Entry("resnet", "resnet18", (3, 224, 224), "He et al., table 1"),
    "resnet-50": Entry("resnet", "resnet50", (3, 224, 224), "He et al., table 1"),
    "vgg-like": Entry("chains", "vgg_like", (3, 32, 32), "AutoQNN, section 6"),
    "vgg-11": Entry("chains", "vgg11", (3, 32, 32), "Simonyan and Zisserman, configuration A"),
    "svhn-10": Entry("chains", "svhn10", (3, 32, 32), "ReLeQ, table 2, reconstructed"),
    "alexnet": Entry("chains", "alexnet", (3, 224, 224), "Krizhevsky, 2014"),
    "mobilenet-v1": Entry("mobilenet", "mobilenet_v1", (3, 224, 224), "Howard et al., table 1"),
    "mobilenet-v2": Entry("mobilenet", "mobilenet_v2", (3, 224, 224), "Sandler et al., table 2"),
    "lstm-text": Entry("text", "LstmClassifier", (600,), "AutoQNN, section 5.2.1, partly reconstructed"),
}
"""The networks by name."""


def builder_of(name: str) -> Entry:
    """Return the entry of a network.

    Raises:
        DataError: there is no such network.
    """
    if name not in NETWORKS:
        raise DataError(f"no network {name!r}; expected one of {', '.join(sorted(NETWORKS))}")
    return NETWORKS[name]


def build(name: str, *, seed: int = 0, **options: Any) -> nn.Module:
    """Build a network with PyTorch's initial weights.

    Args:
        name: a key of `NETWORKS`.
        seed: seeds the weights; the global random state is left as it was.
        **options: other keyword arguments of the network, for example `classes`, `channels`, `width`.

    Returns:
        The network in training mode.

    Raises:
        DataError: there is no such network, or it has no such option.
    """
    import torch

    entry = builder_of(name)
    function = getattr(importlib.import_module(f"qir.models.networks.{entry.module}"), entry.function)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        try:
            network: nn.Module = function(**(entry.options | options))
        except TypeError as error:
            raise DataError(f"network {name!r} cannot be built with {sorted(options)}: {error}") from error
    return network


def export_onnx(
    name: str,
    path: str | Path,
    *,
    input_shape: tuple[int, ...] | None = None,
    seed: int = 0,
    random_batch_norm: bool = True,
    **options: Any,
) -> Path:
    """Write a network with random weights as ONNX, BatchNorm kept; the same arguments give the same bytes.

    Args:
        name: a key of `NETWORKS`.
        path: the file to write.
        input_shape: shape of the input with its batch, for example (1, 3, 224, 224); by default a batch of 1 of the
            papers' shape. The batch is a symbol in the file; the second dimension of images sets `channels`.
        seed: seeds the weights.
        random_batch_norm: draws BatchNorm's scale, bias, mean and variance as if it were trained. With False they are
            the initial ones and zeros: PyTorch then shares equal tensors through Identity nodes.
        **options: as in `build`.

    Returns:
        The path of the file.

    Raises:
        DataError: there is no such network, or it does not take that shape or these options.
    """
    import torch

    from qir.models.exporting import export_network

    entry = builder_of(name)
    shape = input_shape or (1, *entry.input_shape)
    if not entry.takes_tokens and len(shape) == 4:
        options = {"channels": shape[1]} | options
    network = build(name, seed=seed, **options)
    if random_batch_norm:
        _draw_batch_norm(network, torch.Generator().manual_seed(seed))
    example = torch.zeros(shape, dtype=torch.int64 if entry.takes_tokens else torch.float32)
    network.eval()
    _check_shape(name, network, example)
    export_network(network, example, Path(path))
    return Path(path)


def _draw_batch_norm(network: nn.Module, generator: Any) -> None:
    """Draw scale and variance from 0.5 to 1.5, bias and mean from -0.25 to 0.25, for each BatchNorm."""
    import torch

    with torch.no_grad():
        for module in network.modules():
            if isinstance(module, (torch.nn.BatchNorm1d, torch.nn.BatchNorm2d)):
                state = module.state_dict()
                for tensor in ("weight", "running_var"):
                    state[tensor].uniform_(0.5, 1.5, generator=generator)
                for tensor in ("bias", "running_mean"):
                    state[tensor].uniform_(-0.25, 0.25, generator=generator)


def _check_shape(name: str, network: nn.Module, example: Tensor) -> None:
    import torch

    try:
        with torch.no_grad():
            network(example)
    except (RuntimeError, ValueError) as error:
        raise DataError(f"network {name!r} does not take input {list(example.shape)}: {error}") from error
