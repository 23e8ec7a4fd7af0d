"""The outputs of a quantized network held against the float network on the same samples: what a user asks first.

Outputs that are scores of classes are compared by their decisions, all by their signal to quantization noise ratio.
The samples are read once, batch by batch; only sums are kept.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from qir.backends.execution.executor import Run
from qir.backends.execution.pairs import pairs
from qir.backends.execution.random_feed import random_feed
from qir.errors import DataError, QirError
from qir.module import Module
from qir.passes.data.batch_axes import BatchAxes
from qir.passes.data.kinds.array_files import labels_of, read_arrays
from qir.passes.data.kinds.source import Data
from qir.passes.data.reading import Samples
from qir.passes.data.recording import readable_again
from qir.passes.data.samples import batches, fitting_samples
from qir.passes.parity.class_scores import class_axis
from qir.passes.parity.executors import code_forms, executor, executor_of
from qir.passes.parity.layer_losses import LayerLoss, layer_losses
from qir.passes.parity.noise import Noise
from qir.tensor import Array, numpy_dtype
from qir.types import TensorType

LOW_AGREEMENT = 0.95
"""Fewer decisions than this share that are as in float are warned of: one in twenty answers changes."""

LOW_DECIBELS = 20.0
"""Outputs under this ratio are warned of: the noise is more than a tenth of the signal in amplitude."""

SHOWN = 8
"""Outputs that are listed, worst first."""

SAMPLES = 64
"""Samples of a batch, fewer where the network's values would not fit."""

RANDOM = "random noise, which says little about real data"
"""What the comparison is said to be made on where no data are given."""


@dataclass(frozen=True)
class Labels:
    """Labels int64 [N], one a sample, and the name of their split."""

    labels: Array
    split: str


@dataclass(frozen=True)
class OutputAgreement:
    """One output against the float network's.

    Attributes:
        name: name of the output.
        sqnr: signal to quantization noise ratio in decibels, -200 to 200.
        decisions: number of decisions compared (largest score among the classes; elements of integer outputs); 0 where
            the output decides nothing.
        agreeing: how many of them are as in float.
    """

    name: str
    sqnr: float
    decisions: int = 0
    agreeing: int = 0

    @property
    def low(self) -> bool:
        """Whether the output is under the limit: `LOW_AGREEMENT` of decisions, else `LOW_DECIBELS`."""
        return self.agreeing < LOW_AGREEMENT * self.decisions if self.decisions else self.sqnr < LOW_DECIBELS

    @property
    def text(self) -> str:
        """The figures in words."""
        if not self.decisions:
            return f"{self.sqnr:.1f} dB SQNR"
        share = 100 * self.agreeing / self.decisions
        return f"{share:.2f} % of {self.decisions:,} decisions as in float, {self.sqnr:.1f} dB SQNR"


@dataclass(frozen=True)
class Accuracy:
    """Samples whose largest score is their label.

    Attributes:
        split: name of the split that the labels are of.
        samples: number of samples.
        float_right: how many the float network gets right.
        quantized_right: how many the quantized network gets right.
    """

    split: str
    samples: int
    float_right: int
    quantized_right: int

    @property
    def text(self) -> str:
        """The figures in words."""
        before, after = (100 * right / self.samples for right in (self.float_right, self.quantized_right))
        return f"{after:.2f} % quantized, {before:.2f} % in float ({self.split}, {self.samples:,} samples)"


@dataclass(frozen=True)
class Agreement:
    """The outputs of a quantized network against the float network's.

    Attributes:
        data: what the samples are, in words ("the calibration data").
        samples: number of samples.
        outputs: every output, worst first.
        losses: the three layers that lose most, worst first, where an output is under its limit and the file holds
            codes; else empty.
        accuracy: against labels; None where there are none.
        reason: why nothing was compared, else empty.
    """

    data: str
    samples: int
    outputs: tuple[OutputAgreement, ...]
    losses: tuple[LayerLoss, ...] = ()
    accuracy: Accuracy | None = None
    reason: str = ""

    @property
    def low(self) -> tuple[OutputAgreement, ...]:
        """The outputs under their limits, worst first."""
        return tuple(output for output in self.outputs if output.low)

    def lines(self) -> list[str]:
        """Return what a summary ends with: every output, accuracy, and a warning where one is under its limit."""
        if self.reason:
            return [f"against float: not compared: {self.reason}"]
        found = [f"against float, on {self.data} ({self.samples:,} samples):"]
        found += [f"  output {output.name}: {output.text}" for output in self.outputs[:SHOWN]]
        if len(self.outputs) > SHOWN:
            found.append(f"  {len(self.outputs) - SHOWN} more outputs, none worse")
        if self.accuracy is not None:
            found.append(f"  accuracy: {self.accuracy.text}")
        return found + ([self._warning()] if self.low else [])

    def _warning(self) -> str:
        names = ", ".join(output.name for output in self.low[:SHOWN])
        lost = f"; most is lost in {', '.join(map(str, self.losses))}" if self.losses else ""
        return (
            f"warning: far from float: {names} (under {100 * LOW_AGREEMENT:.0f} % of decisions, or under "
            f"{LOW_DECIBELS:.0f} dB){lost}"
        )


def agreement(
    quantized: Module,
    original: Module,
    data: Data | None = None,
    *,
    called: str = "the data given",
    labels: Labels | None = None,
) -> Agreement:
    """Run both networks on the same samples and compare their outputs.

    Args:
        quantized: network as `written_network` reads it: in a form that ONNX Runtime or qir's executor of QONNX runs.
        original: the float network, with inputs and outputs of the same names.
        data: samples, as for calibration; 16 samples of normal noise without them.
        called: what the data are, in words.
        labels: labels of the samples in order, for the accuracy of the first output that is [N, classes].

    Raises:
        DataError: the data do not fit, or the networks have other inputs, or outputs of other names or shapes.
        QirError: one of the networks cannot be loaded.
    """
    data = readable_again(data)
    ours, theirs = executor_of(quantized), _FloatNetwork(original)
    made = dict(zip(original.graph.output_names, original.graph.outputs, strict=True))
    count, found = _Count(BatchAxes(quantized), None if labels is None else labels.labels), dict[str, _Output]()
    batch = fitting_samples(original, data, (v for v in original.graph.values() if not v.is_constant), SAMPLES)
    first: Mapping[str, Array] = {}
    feeds = batches(quantized, random_feed(quantized) if data is None else data, batch=batch)
    for feed, of_float, of_file in pairs(theirs, ours, feeds):
        first, exact, other = first or feed, of_float.outputs, of_file.outputs
        for name, output in _paired(exact, other):
            if name not in found:
                value = made[name]
                found[name] = _Output(None if value is None else class_axis(value, output.shape))
            found[name].add(exact[name], output)
        count.add(feed, exact, other, next((name for name, output in found.items() if output.axis == 1), ""))
    outputs = tuple(sorted((output.finish(name) for name, output in found.items()), key=_worst))
    losses = layer_losses(quantized, original, first)[:3] if any(output.low for output in outputs) else ()
    accuracy = None if labels is None or not count.samples else count.finish(labels.split)
    return Agreement(RANDOM if data is None else called, count.seen, outputs, tuple(losses), accuracy)


def agreement_of_file(
    path: str | Path,
    original: Module,
    data: Data | None = None,
    *,
    called: str = "the data given",
    labels: Labels | None = None,
) -> Agreement:
    """Return the agreement of a file that was just written; one with a reason where the two cannot be compared."""
    try:
        return agreement(written_network(path), original, data, called=called, labels=labels)
    except QirError as error:
        return Agreement(called, 0, (), reason=str(error))


def labels_in(data: Data, split: str) -> Labels | None:
    """Return the labels of samples that `read_samples` read, or the array `labels` of a .npz file or a map.

    None without.

    Raises:
        DataError: the file cannot be read.
    """
    if isinstance(data, Samples):
        return None if data.labels is None else Labels(data.labels, split)
    if isinstance(data, str | Path) and Path(data).suffix == ".npz":
        data = read_arrays(data)
    found = labels_of(data) if isinstance(data, Mapping) else None
    return None if found is None else Labels(found, split)


def float_form(module: Module) -> Module:
    """Return a copy of a network without its fake-quant nodes: what it computes in float."""
    copy = module.clone()
    for node in copy.graph.fake_quants():
        node.result.replace_all_uses_with(node.operands[0])
        copy.graph.erase(node)
    return copy


def written_network(path: str | Path) -> Module:
    """Return the network of an exported file; one with encodings next to it in the form of codes.

    Raises:
        QirError: the file, or the encodings next to it, cannot be read.
    """
    from qir.onnx_io import load
    from qir.passes.raising.encodings import apply_encodings_next_to

    path = Path(path)
    module = load(path)
    return next(code_forms(module), module) if apply_encodings_next_to(module, path) else module


class _FloatNetwork:
    """The float network in ONNX Runtime, on the quantized network's samples in its own element types."""

    def __init__(self, module: Module) -> None:
        self._executor = executor("fused", module)
        self._kinds = {value.name: value.type for value in module.graph.inputs if value.constant is None}

    def run(self, feed: Mapping[str, Array], /) -> Run:
        """Return one batch; raises `DataError` where the network does not take the samples."""
        missing = self._kinds.keys() - feed.keys()
        if missing:
            raise DataError(f"the float network has the input {min(missing)!r}, which the quantized network lacks")
        given = {
            name: feed[name].astype(numpy_dtype(kind.dtype)) if isinstance(kind, TensorType) else feed[name]
            for name, kind in self._kinds.items()
        }
        try:
            return self._executor.run(given)
        except QirError as error:
            raise DataError(f"the float network does not take the quantized network's samples: {error}") from error


def _paired(exact: Mapping[str, Array], found: Mapping[str, Array]) -> Iterator[tuple[str, Array]]:
    for name, array in exact.items():
        if name not in found:
            raise DataError(f"the float network has the output {name!r}; the quantized one has {', '.join(found)}")
        if found[name].shape != array.shape:
            raise DataError(f"output {name!r} has the shape {array.shape} in float and {found[name].shape} quantized")
        if array.dtype.kind in "biuf":
            yield name, found[name]


@dataclass
class _Output:
    """Sums over the batches of one output."""

    axis: int | None
    noise: Noise = field(default_factory=Noise)
    decisions: int = 0
    agreeing: int = 0

    def add(self, exact: Array, found: Array) -> None:
        wanted, other = exact.astype(np.float64), found.astype(np.float64)
        finite = np.isfinite(wanted)
        same = finite & np.isfinite(other)
        self.noise.add("", wanted[same], other[same])
        if (np.isfinite(other) != finite).any():
            self.noise.noise[""] = float("inf")
        if exact.dtype.kind in "biu":
            self.decide(exact, found)
        elif self.axis is not None and exact.size:
            self.decide(exact.argmax(self.axis), found.argmax(self.axis))

    def decide(self, exact: Array, found: Array) -> None:
        self.decisions += exact.size
        self.agreeing += int((exact == found).sum())

    def finish(self, name: str) -> OutputAgreement:
        return OutputAgreement(name, self._decibels(), self.decisions, self.agreeing)

    def _decibels(self) -> float:
        if not self.noise.noise.get("", 0.0):
            return 200.0
        found = self.noise.decibels("")
        return -200.0 if found is None else max(found, -200.0)


@dataclass
class _Count:
    """Samples seen, and those that both networks get right."""

    axes: BatchAxes
    labels: Array | None
    seen: int = 0
    samples: int = 0
    right: list[int] = field(default_factory=lambda: [0, 0])

    def add(self, feed: Mapping[str, Array], exact: Mapping[str, Array], found: Mapping[str, Array], name: str) -> None:
        """Count one batch; `name` is the output of scores, [N, classes], empty where there is none."""
        size = self.axes.samples(feed)
        wanted = self.labels[self.seen : self.seen + size] if self.labels is not None and name else None
        self.seen += size
        if wanted is None or exact[name].ndim != 2 or not len(exact[name]) == len(wanted) == size:
            return
        self.samples += size
        for index, outputs in enumerate((exact, found)):
            self.right[index] += int((outputs[name].argmax(-1) == wanted).sum())

    def finish(self, split: str) -> Accuracy:
        return Accuracy(split, self.samples, *self.right)


def _worst(output: OutputAgreement) -> tuple[bool, float, float]:
    """Return the order of outputs: those under their limits, then by decisions, then by decibels."""
    share = output.agreeing / output.decisions if output.decisions else 1.0
    return not output.low, share, output.sqnr
