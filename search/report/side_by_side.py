"""Networks side by side on the same samples: accuracy, agreement with the first, latency in ONNX Runtime, bytes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from qir.backends.costs.measured import INTEGER, Call, Calls, interleaved
from qir.backends.execution.random_feed import random_feed
from qir.backends.execution.session import OrtSession
from qir.errors import QirError
from qir.module import Module
from qir.passes.data.samples import batches
from qir.passes.parity.agreement import Agreement, Labels, agreement, written_network

REPEATS = 9
"""Windows of time that each network is run for, in turn with the others."""


@dataclass(frozen=True)
class Evaluated:
    """One network next to the others.

    Attributes:
        file: the network.
        disk_bytes: bytes of its file.
        against_first: its outputs against those of the first network; accuracy where there are labels.
        accuracy: share of labelled samples that it gets right, 0 to 1; None without labels.
        microseconds: processor time of one sample in ONNX Runtime, one thread, the median of windows that take turns;
            None where ONNX Runtime does not load the file.
        spread: distance of the quartiles of that time as a share of it.
        refused: why ONNX Runtime does not load it, else empty.
    """

    file: Path
    disk_bytes: int
    against_first: Agreement
    accuracy: float | None
    microseconds: float | None
    spread: float | None
    refused: str = ""

    @property
    def agreeing(self) -> float | None:
        """Share of the decisions that are as in the first network, of the output that agrees least; None without."""
        worst = next(iter(self.against_first.outputs), None)
        return None if worst is None or not worst.decisions else worst.agreeing / worst.decisions

    @property
    def sqnr(self) -> float | None:
        """Signal to quantization noise ratio in decibels, the first network's outputs being the signal."""
        worst = next(iter(self.against_first.outputs), None)
        return None if worst is None else worst.sqnr


def side_by_side(files: Sequence[Path], data: Any = None, *, labels: Labels | None = None) -> list[Evaluated]:
    """Run every network on the same samples; the first is what the others are held against.

    Args:
        files: ONNX files, float or quantized, of qir or of any other tool, with inputs and outputs of the same names.
        data: samples of any kind; 16 samples of normal noise without them.
        labels: of the samples, for accuracy.

    Raises:
        DataError: the data do not fit, or the networks have other inputs, or outputs of other names or shapes.
        QirError: a file cannot be read.
    """
    networks = [written_network(file) for file in files]
    found = [agreement(network, networks[0], data, labels=labels) for network in networks]
    times = _times(files, networks[0], data)
    rows = []
    for file, against, time in zip(files, found, times, strict=True):
        right = against.accuracy
        accuracy = None if right is None else right.quantized_right / right.samples
        said = time if isinstance(time, str) else ""
        microseconds, spread = (None, None) if isinstance(time, str) else time
        rows.append(Evaluated(file, _bytes(file), against, accuracy, microseconds, spread, said))
    return rows


def _bytes(file: Path) -> int:
    """Return bytes of a model file, with the file of external data that stands next to it."""
    data = file.with_name(f"{file.name}.data")
    return file.stat().st_size + (data.stat().st_size if data.exists() else 0)


def _times(files: Sequence[Path], network: Module, data: Any) -> list[tuple[float, float] | str]:
    """(Microseconds, spread) of one sample in each network, or why ONNX Runtime does not load it."""
    feed = next(iter(batches(network, random_feed(network) if data is None else data, batch=1)))
    calls: list[Calls | str] = []
    for index, file in enumerate(files):
        try:
            session = OrtSession(file)
            session.run(feed)
        except QirError as error:
            calls.append(str(error))
        else:
            calls.append({(str(index), INTEGER): Call(lambda session=session: session.run(feed))})  # type: ignore[misc]
    timings = interleaved([call for call in calls if not isinstance(call, str)], REPEATS)
    return [
        call if isinstance(call, str) else (timings[key := next(iter(call))].microseconds, timings[key].spread)
        for call in calls
    ]
