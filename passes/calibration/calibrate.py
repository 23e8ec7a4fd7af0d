"""Calibration, once for every candidate width.

The float values of all activations that are quantized are gathered in one pass over the data into streaming
histograms; the range of every width is computed from the one histogram and stored on the fake-quant node, so that a
change of bits needs no further data. Ranges of weights come from the weights themselves and, where the same pass over
the data has seen what the layer reads, from the error at the layer's output.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from qir.backends.costs.layers.open_sizes import remember_samples, with_known_sizes
from qir.errors import PassError, QirError
from qir.fake_quant import FakeQuant
from qir.graph import Value
from qir.module import Module
from qir.ops.definition import sizes_of
from qir.passes.calibration.activation_ranges import activation_ranges
from qir.passes.calibration.clipping import METHODS
from qir.passes.calibration.observers import Histogram
from qir.passes.calibration.output_error import RowSketch, has_rows, operand_axis
from qir.passes.calibration.weight_ranges import store_levels, weight_ranges
from qir.passes.data.batch_axes import Feed
from qir.passes.data.samples import batches, fitting_samples
from qir.passes.infrastructure.contract import Pass, PassContext
from qir.tensor import Array

if TYPE_CHECKING:
    from qir.backends.execution.session import OrtSession


@dataclass(frozen=True)
class Calibrate(Pass):
    """Set the ranges of every fake-quant node for all its candidate widths.

    Verified IR in, verified IR out; needs `calibration_data` when an activation is quantized; where weights alone are,
    they give the sizes that costs need, and what layers read. Activations that reach
    below zero get signed codes where the unsigned grid of their scheme begins at zero and loses more (ClipQ, LSQ, …).

    Options:
        method: how activations are clipped: minmax, moving-average, percentile, mse, lp, entropy or aciq.
        weights: how weights are clipped: `output` (least error of the layer's output on the data), `output-centred`
            (the same but for its mean, for networks whose biases are corrected later), `mse` (least error of the
            weight, which the first two fall back to where there are no data) or `minmax`.
        batch: samples per forward pass at most; fewer where their activations would not fit into a pass.
    """

    name: ClassVar[str] = "calibrate"
    method: str = "mse"
    weights: str = "output"
    batch: int = 64

    def run(self, module: Module, context: PassContext) -> bool:
        """Gather and store; raises `QirError` for unknown methods, missing or unfit data, NaN and infinities."""
        if self.method not in METHODS:
            raise PassError(f"calibrate: method {self.method!r} is unknown; expected one of {', '.join(METHODS)}")
        found = [FakeQuant(node) for graph in module.graphs for node in graph.fake_quants()]
        if not found:
            raise PassError("calibrate: the network has no fake-quant nodes: run insert-fake-quant first")
        weights = {quantizer: array for quantizer in found if (array := _constant(quantizer)) is not None}
        activations = [quantizer for quantizer in found if quantizer not in weights]
        for quantizer, array in weights.items():
            if not np.isfinite(array).all():
                raise QirError(
                    f"weight of quantizer {quantizer.name!r} holds NaN or infinities: repair the model first"
                )
        sketches: dict[FakeQuant, RowSketch] = {}
        data = context.require("calibration_data") if activations else context.calibration_data
        if data is not None:
            if self.weights in {"output", "output-centred"}:
                sketches = _sketches(module, weights)
            wanted = {_unquantized(quantizer.source) for quantizer in activations}
            batch = fitting_samples(module, data, wanted, self.batch)
            some = None if activations or sketches else 1
            histograms = observe(module, activations, islice(batches(module, data, batch=batch), some), sketches)
            for quantizer in activations:
                histogram = histograms[quantizer]
                quantizer.calibration = activation_ranges(quantizer, histogram, self.method)
                store_levels(quantizer, histogram.sample())
        for quantizer, array in weights.items():
            self._weight(quantizer, array, sketches.get(quantizer))
        return True

    def _weight(self, quantizer: FakeQuant, array: Array, sketch: RowSketch | None) -> None:
        error = None if sketch is None else sketch.error(centred=self.weights == "output-centred")
        axis = None if sketch is None else operand_axis(sketch.node)
        quantizer.calibration = weight_ranges(quantizer, array, self.weights, error, channel_axis=axis)
        store_levels(quantizer, array)


def _sketches(module: Module, weights: Mapping[FakeQuant, Array]) -> dict[FakeQuant, RowSketch]:
    """Return an empty sketch for every weight quantizer of the main graph that exactly one layer reads."""
    found = {}
    for quantizer, array in weights.items():
        users, axis = quantizer.result.users, quantizer.granularity.axis
        if quantizer.node.graph is not module.graph or len(users) != 1 or not has_rows(users[0], array):
            continue
        if users[0].inputs[1] is quantizer.result and axis in {None, operand_axis(users[0])}:
            found[quantizer] = RowSketch(users[0])
    return found


def _constant(quantizer: FakeQuant) -> Array | None:
    """Return the constant that a quantizer reads, seen through other quantizers."""
    value = _unquantized(quantizer.source)
    return None if value.constant is None or not value.is_constant else value.constant.numpy()


def observe(
    module: Module, quantized: list[FakeQuant], feeds: Iterator[Feed], sketches: dict[FakeQuant, RowSketch]
) -> dict[FakeQuant, Histogram]:
    """Return one pass over the feeds.

    Histograms, and `sketches` (by weight quantizer) fed with what their layers read.
    """
    from qir.backends.execution.session import OrtSession

    read = {weight: _unquantized(sketch.node.operand(0)) for weight, sketch in sketches.items()}
    origins = {quantizer: _unquantized(quantizer.source) for quantizer in quantized}
    wanted = {*origins.values(), *read.values()}
    inputs = {value for value in wanted if value.is_input}
    names = sorted(value.name for value in wanted - inputs)
    session = OrtSession(float_network(module, names), optimization="all")
    histograms = {value: Histogram() for value in origins.values()}
    for number, feed in enumerate(feeds):
        if number == 0:
            _remember_sizes(module, session, feed, wanted - inputs)
        found: Feed = session.run(feed)
        for value, histogram in histograms.items():
            histogram.update(feed[value.name] if value in inputs else found[value.name])
        for weight, value in read.items():
            sketches[weight].update(feed[value.name] if value in inputs else found[value.name])
    return {quantizer: histograms[value] for quantizer, value in origins.items()}


def _remember_sizes(module: Module, session: OrtSession, feed: Feed, values: set[Value]) -> None:
    """Keep the shapes of the samples, and of those values that one sample alone tells: costs need sizes."""
    remember_samples(module, feed)
    sized = {value.name: value for value in with_known_sizes(module).graph.values()}
    untold = {value.name for value in values if sizes_of(sized[value.name]) is None}
    if untold:
        found = session.run(next(batches(module, feed, batch=1)))
        remember_samples(module, feed | {name: found[name] for name in untold})


def _unquantized(value: Value) -> Value:
    """Return the float value under fake-quant nodes."""
    while (quantizer := FakeQuant.of(value)) is not None:
        value = quantizer.source
    return value


def float_network(module: Module, outputs: list[str] | None = None) -> Module:
    """Return a copy without its fake-quant nodes, with more of its values as outputs."""
    made = module.clone()
    for graph in made.graphs:
        for node in graph.fake_quants():
            node.result.replace_all_uses_with(node.operands[0])
            graph.erase(node)
    if outputs:
        by_name = {value.name: value for value in made.graph.values()}
        graph = made.graph
        old = dict(zip(graph.output_names, graph.outputs, strict=True))
        names = [*old, *(name for name in outputs if name not in old)]
        graph.set_outputs([old.get(name) or by_name[name] for name in names], names)
    return made
