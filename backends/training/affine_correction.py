"""Channel-wise affine correction in torch, where it is fitted to policy after policy: the twin of `fit_affine`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from qir.backends.execution.affine_fit import LARGEST_GAIN, Correctable, correctable
from qir.graph import Node

if TYPE_CHECKING:
    import torch

    from qir.backends.torch.module import TorchModule

_BLOCK = 1 << 20
"""Elements whose moments are taken at a time: temporaries of a whole layer cost more than its convolution."""


@dataclass
class AffineCorrection:
    """Gain and offset per layer, applied to the layer's result as a hook of `TorchModule`.

    Attributes:
        terms: node → (gain float32 [channels], offset float32 [channels]).
    """

    terms: dict[Node, tuple[torch.Tensor, torch.Tensor]] = field(default_factory=dict)

    def __call__(self, node: Node, result: Any) -> Any:
        """Return the corrected result of a layer, in place unless it needs a gradient.

        Other nodes' results unchanged.
        """
        if node not in self.terms:
            return result
        gain, offset = self.terms[node]
        form = correctable(node)
        axis = 1 if form is None else form.axis
        if result.requires_grad:
            return result * _spread(gain, result, axis) + _spread(offset, result, axis)
        return result.mul_(_spread(gain, result, axis)).add_(_spread(offset, result, axis))


@dataclass
class _Fitting(AffineCorrection):
    reference: Mapping[Node, torch.Tensor] = field(default_factory=dict)

    def __call__(self, node: Node, result: Any) -> Any:
        form = correctable(node) if node in self.reference else None
        if form is not None and (form.offset or form.gain):
            self.terms[node] = _least_squares(result, self.reference[node], form)
        return super().__call__(node, result)


def pre_activations(network: TorchModule, layers: Iterable[Node], *inputs: torch.Tensor) -> dict[Node, torch.Tensor]:
    """Results of the layers in the float network (quantizers passed over), for inputs [N, …] in the graph's order."""
    import torch

    wanted, found = set(layers), {}

    def keep(node: Node, result: Any) -> Any:
        if node in wanted:
            found[node] = result
        return result

    with torch.no_grad(), network.quantizers_off():
        network(*inputs, hook=keep)
    return found


def fit_affine_correction(
    network: TorchModule, reference: Mapping[Node, torch.Tensor], *inputs: torch.Tensor
) -> AffineCorrection:
    """Fit gain and offset of every layer at the network's bits, in one pass.

    Args:
        network: the network at the policy's bits.
        reference: float pre-activations of the same inputs, from `pre_activations`.
        inputs: [N, …] each, the inputs of `reference` in the same order.

    Returns:
        Terms of every layer that `correctable` lets have one.
    """
    import torch

    fitting = _Fitting(reference=reference)
    with torch.no_grad():
        network(*inputs, hook=fitting)
    return AffineCorrection(fitting.terms)


def _least_squares(found: torch.Tensor, wanted: torch.Tensor, form: Correctable) -> tuple[torch.Tensor, torch.Tensor]:
    """gain, offset that minimise ‖gain · found + offset - wanted‖² per channel; a term that is not free is 1 or 0."""
    import torch

    axes = [axis for axis in range(found.ndim) if axis != form.axis % found.ndim]
    mean, aim = (x.mean(axes, keepdim=True) if form.offset else x.new_zeros(()) for x in (found, wanted))
    variance, covariance = (found.new_zeros(found.shape[form.axis]) for _ in range(2))
    samples = max(_BLOCK * len(found) // max(found.numel(), 1), 1)
    for part, goal in zip(torch.split(found, samples), torch.split(wanted, samples), strict=True):
        centred = part - mean
        covariance += (centred * (goal - aim)).sum(axes)
        variance += centred.square_().sum(axes)
    rows = found.numel() // max(found.shape[form.axis], 1)
    variance, covariance = variance / rows, covariance / rows
    slope = covariance / variance.clamp_min(1e-12)
    dead = (variance < 1e-12) | (slope <= 0)
    slope = slope.clamp(1 / LARGEST_GAIN, LARGEST_GAIN)
    slope[dead | (not form.gain)] = 1.0
    offset = aim.flatten() - slope * mean.flatten() if form.offset else torch.zeros_like(slope)
    return slope, offset


def _spread(vector: torch.Tensor, like: torch.Tensor, axis: int) -> torch.Tensor:
    shape = [1] * like.ndim
    shape[axis] = -1
    return vector.reshape(shape)
