"""Loss at the outputs when the quantizers of one decision alone are on: for networks of any kind."""

from __future__ import annotations

from typing import TYPE_CHECKING

from qir.passes.constraints.propagate_constraints import BitConstraints
from qir.search.metrics.operands import Samples, whole_batches
from qir.search.metrics.outputs.output_loss import output_loss, scores_classes
from qir.search.metrics.pace import Key, Pace, mean_over
from qir.search.problem.sensitivity import Sensitivity
from qir.support.progress import advance

if TYPE_CHECKING:
    import torch

    from qir.backends.torch.module import TorchModule


def output_distance(
    network: TorchModule, constraints: BitConstraints, images: Samples, *, pace: Pace | None = None
) -> Sensitivity:
    """`output_loss` of every option of every decision: divergence of classes, else the noise-to-signal ratio.

    Batch after batch, one partial pass for each decision and width: in a `ReusingNetwork` only what lies after the
    decision is computed. A quantizer that follows from a decision moves with it, so its share is in the decision's
    value and its own is 0. Needs no gradients.

    Args:
        network: calibrated network; not changed.
        constraints: decisions and options.
        images: float32 images [N, …], which are one batch, or one array per input for each batch.
        pace: when to end early.

    Returns:
        One forward pass of every batch and a partial one for each option; unit: nats for scores of classes, else none.

    Raises:
        DataError: there are no samples.
    """
    from qir.search.evaluation.reuse import reusing_here

    batches, classes = whole_batches(images), scores_classes(network.graph)
    groups = constraints.groups()
    options = [(name, bits) for name in groups for bits in constraints.options[name]]
    pace = pace or Pace()

    def measured(number: int, inputs: tuple[torch.Tensor, ...]) -> dict[Key, float]:
        found = {}
        with reusing_here(network):
            aims = _outputs(network, inputs, {})
            for place, (name, bits) in enumerate(options):
                pace.check()
                on = {quantizer: widths[bits] for quantizer, widths in groups[name].items()}
                found[name, bits] = output_loss(_outputs(network, inputs, on), aims, classes=classes)
                advance(number * len(options) + place + 1, len(batches) * len(options))
        return found

    means = mean_over(batches, measured, pace, parts=len(options))
    followers = {(name, bits): 0.0 for name in constraints.implied for bits in constraints.options[name]}
    return means.sensitivity("output-distance", means.samples * (1 + len(options)), more=followers)


def _outputs(network: TorchModule, inputs: tuple[torch.Tensor, ...], on: dict[str, int]) -> tuple[torch.Tensor, ...]:
    """Return outputs of the float network with some quantizers on: name → bits."""
    import torch

    with torch.no_grad(), network.quantizers_off(but=on):
        outputs = network(*inputs)
    assert isinstance(outputs, tuple)  # noqa: S101 - no intermediates were asked for
    return outputs
