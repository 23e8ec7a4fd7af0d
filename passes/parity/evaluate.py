"""`evaluate`: what a network computes on data of any kind, in ONNX Runtime."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from qir.errors import DataError, QirError
from qir.module import Module
from qir.passes.data.kinds.source import Data
from qir.passes.data.recording import readable_again
from qir.passes.data.samples import batches, fitting_samples
from qir.passes.parity.agreement import written_network
from qir.passes.parity.executors import executor_of
from qir.tensor import Array


def evaluate(model: Module | str | Path, data: Data, *, batch: int = 64) -> dict[str, Array]:
    """Run a network on samples in ONNX Runtime, at the session options that an exported file is made for.

    Files of the profiles `qonnx` and `finn`, which ONNX Runtime does not load, run in qir's executor of QONNX.

    Args:
        model: float or exported network, or its file.
        data: samples of any kind that `calibrate` takes.
        batch: most samples of one run; fewer where their values would not fit.

    Returns:
        Outputs by name: the batches one after another along the first axis.

    Raises:
        DataError: the data do not fit, or outputs of several batches are scalars.
        QirError: the network cannot be loaded, or holds fake-quant nodes, which exist in qir alone.
    """
    module = model if isinstance(model, Module) else written_network(model)
    if module.graph.fake_quants():
        raise QirError(
            "evaluate: the network holds fake-quant nodes, which ONNX Runtime does not know: export it first"
        )
    data = readable_again(data)
    run, values = executor_of(module).run, (value for value in module.graph.values() if not value.is_constant)
    size = fitting_samples(module, data, values, batch)
    found = [run(feed).outputs for feed in batches(module, data, batch=size)]
    return {name: _joined(name, [outputs[name] for outputs in found]) for name in found[0]}


def _joined(name: str, parts: list[Array]) -> Array:
    if len(parts) == 1:
        return parts[0]
    if not parts[0].ndim:
        raise DataError(f"output {name!r}: one number for a whole batch: run the batches one by one")
    return np.concatenate(parts)
