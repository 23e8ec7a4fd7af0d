"""Statistics per channel of the float activations, in one pass over the calibration data."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from qir.errors import DataError
from qir.graph import Value
from qir.module import Module
from qir.passes.analysis.affine import Vector
from qir.passes.calibration.calibrate import float_network
from qir.passes.data.kinds.source import Data
from qir.passes.data.samples import batches, fitting_samples
from qir.tensor import Array

Wanted = Sequence[tuple[Value, int]]
"""Values of the main graph, each with its channel axis."""


def channel_moments(module: Module, wanted: Wanted, data: Data) -> dict[Value, tuple[Vector, Vector]]:
    """Return the mean and standard deviation of every channel over the data, float64 [channels] each."""
    sums: dict[Value, list[Any]] = {value: [0, 0.0, 0.0] for value, _ in wanted}
    for value, rows in _rows(module, wanted, data):
        total = sums[value]
        total[0] += rows.shape[1]
        total[1] = total[1] + rows.sum(axis=1, dtype=np.float64)
        total[2] = total[2] + np.square(rows, dtype=np.float64).sum(axis=1)
    found = {}
    for value, (count, first, second) in sums.items():
        mean = first / count
        found[value] = (mean, np.sqrt(np.maximum(second / count - mean**2, 0.0)))
    return found


def channel_magnitudes(module: Module, wanted: Wanted, data: Data) -> dict[Value, Vector]:
    """Return the largest magnitude of every channel over the data, float64 [channels]."""
    found: dict[Value, Vector] = {}
    for value, rows in _rows(module, wanted, data):
        largest = np.abs(rows).max(axis=1).astype(np.float64)
        found[value] = np.maximum(found[value], largest) if value in found else largest
    return found


def _rows(module: Module, wanted: Wanted, data: Data) -> Iterator[tuple[Value, Array]]:
    """Yield each value of each batch as [channels, elements].

    Raises:
        DataError: a value is not finite on the data.
    """
    from qir.backends.execution.session import OrtSession

    inputs = set(module.graph.inputs)
    names = sorted({value.name for value, _ in wanted if value not in inputs})
    session = OrtSession(float_network(module, names), optimization="all")
    batch = fitting_samples(module, data, [value for value, _ in wanted], 64)
    for feed in batches(module, data, batch=batch):
        found = session.run(feed)
        for value, axis in wanted:
            array = feed[value.name] if value in inputs else found[value.name]
            if not np.isfinite(array).all():
                raise DataError(f"value {value.name!r} is not finite on the calibration data: check data and weights")
            yield value, np.moveaxis(array, axis, 0).reshape(array.shape[axis], -1)
