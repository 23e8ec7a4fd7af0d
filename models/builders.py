"""Builds a network of the papers by its name, and writes it as ONNX with random weights for tests and benchmarks."""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from qir.errors import DataError

if TYPE_CHECKING:
    from torch import nn


@dataclass(frozen=True, slots=True)
class Entry:
    """Where a network is defined and what it is built with.

    Attributes:
        module: submodule of `qir.models.networks`.
        function: class or function that builds it.
        options: its keyword arguments.
        input_shape: the papers' input without the batch.
        source: where the shape comes from.
    """

    module: str
    function: str
    options: dict[str, Any]
    input_shape: tuple[int, ...]
    source: str


NETWORKS: dict[str, Entry] = {
    "lenet": Entry("lenet", "LeNet", {}, (1, 28, 28), "Caffe's LeNet, BatchNorm added"),
    "lenet-plain": Entry("lenet", "LeNet", {"batch_norm": False}, (1, 28, 28), "Caffe's LeNet"),
}
"""The networks by name."""


def build(name: str, *, seed: int = 0, **options: Any) -> nn.Module:
    """Builds a network with random weights.

    Args:
        name: a key of `NETWORKS`.
        seed: seeds the weights.
        **options: other keyword arguments of the network's class, for example `classes`.

    Raises:
        DataError: there is no such network.
    """
    import torch

    entry = entry_of(name)
    module = importlib.import_module(f"qir.models.networks.{entry.module}")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network: nn.Module = getattr(module, entry.function)(**(entry.options | options))
    return network


def entry_of(name: str) -> Entry:
    """The entry of a network.

    Raises:
        DataError: there is no such network.
    """
    if name not in NETWORKS:
        raise DataError(f"no network {name!r}; expected one of {', '.join(sorted(NETWORKS))}")
    return NETWORKS[name]
