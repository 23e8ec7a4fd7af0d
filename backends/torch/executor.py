"""The torch interpreter as an executor: numpy arrays in, numpy arrays out."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch

from qir.backends.execution.executor import Run
from qir.backends.torch.module import TorchModule
from qir.errors import DataError
from qir.module import Module
from qir.tensor import Array


class TorchExecutor:
    """What torch computes of a network: with fake-quant nodes the simulation of what its export computes.

    Args:
        module: network, with or without fake-quant nodes.
        codes: names of the outputs that show codes → whether it is an output of the network too.

    Raises:
        QirError: a node has no torch lowering.
    """

    def __init__(self, module: Module, *, codes: Mapping[str, bool] | None = None) -> None:
        graph = module.graph
        self._network = TorchModule(module)
        self._inputs = tuple(value.name for value in graph.inputs if value.constant is None)
        self._names = tuple(n for n, v in zip(graph.output_names, graph.outputs, strict=True) if v is not None)
        self._codes = dict(codes or {})

    def run(self, feed: Mapping[str, Array], /) -> Run:
        """Return one batch; raises `DataError` where an input is missing."""
        missing = [name for name in self._inputs if name not in feed]
        if missing:
            raise DataError(f"input {missing[0]!r} is missing; given are {', '.join(feed) or 'none'}")
        given = [torch.from_numpy(np.asarray(feed[name])) for name in self._inputs]
        with torch.no_grad():
            computed = self._network(*given)
        found = {name: output.numpy() for name, output in zip(self._names, computed, strict=True)}
        outputs = {name: array for name, array in found.items() if self._codes.get(name, True)}
        return Run(outputs, {name: found[name] for name in self._codes})
