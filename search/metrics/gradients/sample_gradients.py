"""What the gradients of single samples say about perturbed operands: one backward pass serves all layers and widths."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F  # noqa: N812 - the name that PyTorch's own documentation uses

from qir.errors import DataError
from qir.fake_quant import FakeQuant
from qir.memory import memory_budget
from qir.passes.constraints.propagate_constraints import BitConstraints
from qir.passes.data.samples import KEPT
from qir.search.metrics.operands import Grid, Samples, Tensors, grid_of, measured_quantizers, rounded, single_samples
from qir.search.metrics.pace import Key, NoGradientError, Pace, mean_over
from qir.search.problem.sensitivity import Sensitivity
from qir.tensor import Array

if TYPE_CHECKING:
    from qir.backends.torch.module import TorchModule
    from qir.graph import Node

Outputs = tuple[torch.Tensor, ...]

Scalars = Callable[[Outputs, int], list[torch.Tensor]]
"""(float outputs of one sample, its number) → numbers whose gradients by the operands are taken."""

Measure = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
"""(gradient by an operand, change of the operand), tensors of one shape → a number."""


def mean_over_samples(
    metric: str,
    network: TorchModule,
    constraints: BitConstraints,
    samples: Samples,
    scalars: Scalars,
    measure: Measure,
    pace: Pace | None = None,
) -> Sensitivity:
    """mean_n mean_s measure(g_ns, Δ_n), g_ns being the gradient of sample n's scalar s by an operand, Δ_n its change.

    Forward, backward and perturbed operands of one sample are held at a time, and what grids change of weights as far
    as it fits into `KEPT` and the memory budget.

    Args:
        metric: name of the metric.
        network: calibrated network; not changed.
        constraints: decisions and options.
        samples: float32 images [N, …], or one array per input for each sample, of the calibration split.
        scalars: what is derived.
        measure: what a gradient says about a change.
        pace: when to end early.

    Returns:
        One forward pass of every sample and one backward pass for each of its scalars.

    Raises:
        DataError: there are no samples.
        QirError: a node has no lowering in torch, so that no gradient passes it, or torch does not derive what it has.
    """
    network.require_gradients()
    quantized = measured_quantizers(network, constraints)
    changes, singles, backward = _Changes(quantized), single_samples(samples), 0

    def measured(number: int, inputs: Outputs) -> dict[Key, float]:
        nonlocal backward
        operands, leaves, outputs = _derivable(network, quantized, inputs)
        with torch.enable_grad():
            aims = scalars(outputs, number)
        gradients = [_gradients(aim, leaves, last=aim is aims[-1]) for aim in aims]
        backward += len(aims)
        return {
            (name, bits): sum(float(measure(found[name], change)) for found in gradients) / len(aims)
            for name in leaves
            for bits in constraints.options[name]
            for change in [changes.of(name, bits, operands[name])]
        }

    means = mean_over(singles, measured, pace)
    return means.sensitivity(metric, means.samples, backward)


def loss_of(labels: Array | None, samples: int) -> Scalars:
    """Cross-entropy of a sample's scores of classes, with labels int64 [N] or the class that it predicts itself.

    Raises:
        DataError: another number of labels than of samples.
    """
    if labels is not None and len(labels) != samples:
        raise DataError(f"{samples} images but {len(labels)} labels; expected one label for each image")

    def loss(outputs: Outputs, number: int) -> list[torch.Tensor]:
        scores = outputs[0]
        told = scores.detach().argmax(1) if labels is None else torch.tensor([int(labels[number])])
        return [F.cross_entropy(scores, told)]

    return loss


def _derivable(
    network: TorchModule, quantized: Mapping[str, FakeQuant], inputs: Outputs
) -> tuple[Tensors, Tensors, Outputs]:
    """Return operands in float, leaves that are added to them, and the outputs: one forward pass."""
    operands: Tensors = {}
    leaves: Tensors = {}

    def derive(node: Node, result: Any) -> Any:
        if node.name not in quantized:
            return result
        operands[node.name] = result.detach()
        leaf = leaves[node.name] = torch.zeros_like(result).requires_grad_(True)
        return result + leaf

    with torch.enable_grad(), network.quantizers_off():
        outputs = network(*inputs, hook=derive)
    assert isinstance(outputs, tuple)  # noqa: S101 - no intermediates were asked for
    return operands, leaves, outputs


def _gradients(aim: torch.Tensor, leaves: Tensors, *, last: bool) -> Tensors:
    """Return gradients of a number by the leaves, 0 where it does not depend on one; one backward pass."""
    try:
        found = torch.autograd.grad(
            aim, list(leaves.values()), retain_graph=not last, allow_unused=True, materialize_grads=True
        )
    except RuntimeError as error:
        raise NoGradientError(f"no gradient passes the network: {str(error).splitlines()[0]}") from error
    return dict(zip(leaves, found, strict=True))


class _Changes:
    """Operand on its grid minus operand; those of weights are kept as far as they fit."""

    def __init__(self, quantized: Mapping[str, FakeQuant], memory: int = KEPT) -> None:
        self._quantized, self._room = quantized, memory_budget().share(memory)
        self._grids: dict[Key, Grid] = {}
        self._kept: dict[Key, torch.Tensor] = {}

    def of(self, name: str, bits: int, operand: torch.Tensor) -> torch.Tensor:
        """Return the change of a quantizer's operand at a width, same shape."""
        key, quantizer = (name, bits), self._quantized[name]
        if key in self._kept:
            return self._kept[key]
        if key not in self._grids:
            self._grids[key] = grid_of(quantizer, bits, operand.device)
        with torch.no_grad():
            change = rounded(quantizer, operand, self._grids[key]) - operand
        size = change.numel() * change.element_size()
        if quantizer.is_weight and size <= self._room:
            self._room -= size
            self._kept[key] = change
        return change
