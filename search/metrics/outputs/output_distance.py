"""Loss at the outputs when the quantizers of one decision alone are on: for networks of any kind, without torch."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from qir.backends.execution.interpreter import Interpreter
from qir.errors import DataError
from qir.passes.constraints.propagate_constraints import BitConstraints
from qir.search.metrics.outputs.output_loss import output_loss, scores_classes
from qir.search.metrics.pace import Key, Pace, mean_over
from qir.search.problem.sensitivity import Sensitivity
from qir.support.progress import advance
from qir.tensor import Array

if TYPE_CHECKING:
    from qir.search.metrics.operands import Samples


def output_distance(
    network: Interpreter, constraints: BitConstraints, images: Samples, *, pace: Pace | None = None
) -> Sensitivity:
    """`output_loss` of every option of every decision: divergence of classes, else the noise-to-signal ratio.

    Batch after batch, one partial pass for each decision and width: only what lies after the decision is computed. A
    quantizer that follows from a decision moves with it, so its share is in the decision's value and its own is 0.
    Needs neither gradients nor torch.

    Args:
        network: calibrated network.
        constraints: decisions and options.
        images: float32 images [N, …], which are one batch, or one array per input for each batch.
        pace: when to end early.

    Returns:
        One forward pass of every batch and a partial one for each option; unit: nats for scores of classes, else none.

    Raises:
        DataError: there are no samples.
    """
    batches, classes = _batches(images), scores_classes(network.graph)
    names = [value.name for value in network.graph.inputs if value.constant is None]
    outputs = [value for value in network.graph.outputs if value is not None]
    groups = constraints.groups()
    options = [(name, bits) for name in groups for bits in constraints.options[name]]
    pace = pace or Pace()

    def measured(number: int, inputs: tuple[Array, ...]) -> dict[Key, float]:
        known = network.run(dict(zip(names, inputs, strict=True)), on={}, keep=None)
        aims, found = [known[value] for value in outputs], {}
        for place, (name, bits) in enumerate(options):
            pace.check()
            on = {quantizer: widths[bits] for quantizer, widths in groups[name].items()}
            found[name, bits] = output_loss(network.rerun(known, on), aims, classes=classes)
            advance(number * len(options) + place + 1, len(batches) * len(options))
        return found

    means = mean_over(batches, measured, pace, parts=len(options))
    followers = {(name, bits): 0.0 for name in constraints.implied for bits in constraints.options[name]}
    return means.sensitivity("output-distance", means.samples * (1 + len(options)), more=followers)


def _batches(samples: Samples) -> list[tuple[Array, ...]]:
    if not len(samples):
        raise DataError("a sensitivity metric needs samples of the calibration split; there are none")
    if isinstance(samples, np.ndarray):
        return [(np.asarray(samples, np.float32),)]
    return [tuple(map(np.asarray, sample)) for sample in samples]
