"""Channel-wise affine correction: a gain and an offset per output channel of every layer.

After fake-quantization each layer's pre-activations differ from the float network's by a part that is affine per
channel. One pass over some images, layer after layer, fits gain and offset by least squares; each layer sees inputs
that are corrected already. Gain folds into the weight's scale (codes stay), offset into the bias, so the exported
network pays nothing. It generalises bias correction (Nagel et al., 2019, section 4.2), which is gain 1.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from qir.graph import Node

if TYPE_CHECKING:
    import torch

    from qir.backends.torch_module import TorchModule

LARGEST_GAIN = 4.0
"""Gains stay between 1/4 and 4: a channel that needs more carries no signal at this width."""


@dataclass
class AffineCorrection:
    """Gain and offset per layer, applied to the layer's result as a hook of `TorchModule`.

    Attributes:
        terms: node → (gain float32 [channels], offset float32 [channels]).
    """

    terms: dict[Node, tuple[torch.Tensor, torch.Tensor]] = field(default_factory=dict)

    def __call__(self, node: Node, result: Any) -> Any:
        """The corrected result of a layer; other nodes' results unchanged."""
        if node not in self.terms:
            return result
        gain, offset = self.terms[node]
        return result * _spread(gain, result) + _spread(offset, result)


@dataclass
class _Fitting(AffineCorrection):
    reference: Mapping[Node, torch.Tensor] = field(default_factory=dict)
    gain: bool = True

    def __call__(self, node: Node, result: Any) -> Any:
        if node in self.reference:
            self.terms[node] = _least_squares(result, self.reference[node], gain=self.gain)
        return super().__call__(node, result)


def pre_activations(network: TorchModule, layers: Iterable[Node], images: torch.Tensor) -> dict[Node, torch.Tensor]:
    """Results of the layers in the float network (quantizers passed over), for images [N, …]."""
    import torch

    wanted, found = set(layers), {}

    def keep(node: Node, result: Any) -> Any:
        if node in wanted:
            found[node] = result
        return result

    with torch.no_grad(), network.quantizers_off():
        network(images, hook=keep)
    return found


def fit_affine_correction(
    network: TorchModule, reference: Mapping[Node, torch.Tensor], images: torch.Tensor, *, gain: bool = True
) -> AffineCorrection:
    """Fit gain and offset of every layer at the network's bits, in one pass.

    Args:
        network: the network at the policy's bits.
        reference: float pre-activations of the same images, from `pre_activations`.
        images: [N, …], the images of `reference` in the same order.
        gain: fit the gain too; without, it is 1 (bias correction).
    """
    import torch

    fitting = _Fitting(reference=reference, gain=gain)
    with torch.no_grad():
        network(images, hook=fitting)
    return AffineCorrection(fitting.terms)


def _least_squares(found: torch.Tensor, wanted: torch.Tensor, *, gain: bool) -> tuple[torch.Tensor, torch.Tensor]:
    """gain, offset that minimise ‖gain · found + offset - wanted‖² per channel (axis 1)."""
    axes = [axis for axis in range(found.ndim) if axis != 1]
    mean, aim = found.mean(axes, keepdim=True), wanted.mean(axes, keepdim=True)
    centred = found - mean
    variance = (centred * centred).mean(axes)
    covariance = (centred * (wanted - aim)).mean(axes)
    slope = covariance / variance.clamp_min(1e-12)
    dead = (variance < 1e-12) | (slope <= 0)
    slope = slope.clamp(1 / LARGEST_GAIN, LARGEST_GAIN)
    slope[dead | (not gain)] = 1.0
    return slope, aim.flatten() - slope * mean.flatten()


def _spread(vector: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    return vector.reshape(1, -1, *([1] * (like.ndim - 2)))
