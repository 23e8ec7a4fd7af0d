"""What quantizers see in the float network, and how a width changes it: shared by the sensitivity metrics."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812 - the name that PyTorch's own documentation uses

from qir.backends.torch.quantizers import TorchParameters, TorchScheme, get_torch_scheme
from qir.backends.torch.quantizers.blocks import fake_quantize
from qir.errors import DataError
from qir.fake_quant import FakeQuant, quantizers
from qir.passes.constraints.propagate_constraints import BitConstraints
from qir.tensor import Array

if TYPE_CHECKING:
    from qir.backends.torch.module import TorchModule
    from qir.graph import Node

Tensors = dict[str, torch.Tensor]
Grid = tuple[TorchScheme, TorchParameters]

Samples = Array | Sequence[Sequence[Array]]
"""Float32 images [N, …] of a network with one input, or one array per input, in order, for each sample or batch."""


def measured_quantizers(network: TorchModule, constraints: BitConstraints) -> dict[str, FakeQuant]:
    """Return quantizers whose width a policy changes (decisions and what follows from them), in graph order."""
    changing = {*constraints.decisions, *constraints.implied}
    return {name: quantizer for name, quantizer in quantizers(network.graph).items() if name in changing}


def checked_batch(images: Array) -> torch.Tensor:
    """Return images float32 [N, …] as a tensor.

    Raises:
        DataError: there are none.
    """
    if len(images) == 0:
        raise DataError("a sensitivity metric needs images of the calibration split; there are none")
    return torch.from_numpy(np.ascontiguousarray(images, np.float32))


def single_samples(samples: Samples) -> list[tuple[torch.Tensor, ...]]:
    """Return one tensor per input for each sample.

    Raises:
        DataError: there are no samples.
    """
    if not isinstance(samples, np.ndarray):
        return whole_batches(samples)
    batch = checked_batch(samples)
    return [(batch[n : n + 1],) for n in range(len(batch))]


def whole_batches(samples: Samples) -> list[tuple[torch.Tensor, ...]]:
    """Return one tensor per input for each batch; images are one batch.

    Raises:
        DataError: there are no samples.
    """
    if isinstance(samples, np.ndarray):
        return [(checked_batch(samples),)]
    if not len(samples):
        raise DataError("a sensitivity metric needs samples of the calibration split; there are none")
    return [tuple(torch.from_numpy(np.array(array)) for array in sample) for sample in samples]


def grid_of(quantizer: FakeQuant, bits: int, device: torch.device) -> Grid:
    """Scheme and parameters of a quantizer's grid at a width."""
    return get_torch_scheme(quantizer.scheme_name(bits)), TorchParameters.of(quantizer.grid(bits), device)


def rounded(quantizer: FakeQuant, x: torch.Tensor, grid: Grid) -> torch.Tensor:
    """Return an operand rounded to a grid of its quantizer, same shape."""
    return fake_quantize(x, *grid, quantizer.granularity)


def rounded_to_grid(quantizer: FakeQuant, x: torch.Tensor, bits: int) -> torch.Tensor:
    """Return an operand rounded to its quantizer's grid at so many bits, same shape."""
    return rounded(quantizer, x, grid_of(quantizer, bits, x.device))


def float_operands(
    network: TorchModule, quantized: Mapping[str, FakeQuant], batch: torch.Tensor
) -> tuple[Tensors, torch.Tensor]:
    """Return operands of the quantizers and the first output, all in float: one forward pass."""
    found: Tensors = {}

    def keep(node: Node, result: Any) -> Any:
        if node.name in quantized:
            found[node.name] = result.detach()
        return result

    with torch.no_grad(), network.quantizers_off():
        return found, network(batch, hook=keep)[0]


def output_with(network: TorchModule, quantizer: FakeQuant, bits: int, batch: torch.Tensor) -> torch.Tensor:
    """Return the first output of the float network with one quantizer on.

    One forward pass, a partial one inside `reusing`.
    """
    with torch.no_grad(), network.quantizers_off(but={quantizer.name: bits}):
        first: torch.Tensor = network(batch)[0]
    return first


def loss_and_leaves(
    network: TorchModule, quantized: Mapping[str, FakeQuant], batch: torch.Tensor, labels: torch.Tensor
) -> tuple[torch.Tensor, Tensors]:
    """Return the mean cross-entropy of the float network, and each operand as a leaf it can be derived by.

    One forward pass.
    """
    network.require_gradients()
    leaves: Tensors = {}

    def derive(node: Node, result: Any) -> Any:
        if node.name not in quantized:
            return result
        leaf = torch.zeros_like(result).requires_grad_(True)
        leaves[node.name] = leaf
        return result + leaf

    with torch.enable_grad(), network.quantizers_off():
        return F.cross_entropy(network(batch, hook=derive)[0], labels), leaves


def targets(network: TorchModule, batch: torch.Tensor, labels: Array | None) -> tuple[torch.Tensor, int]:
    """Labels int64 [N] and the forward passes they took: those given, or else the float network's own predictions.

    Raises:
        DataError: another number of labels than of images.
    """
    if labels is None:
        with torch.no_grad(), network.quantizers_off():
            return network(batch)[0].argmax(1), 1
    if len(labels) != len(batch):
        raise DataError(f"{len(batch)} images but {len(labels)} labels; expected one label for each image")
    return torch.from_numpy(np.ascontiguousarray(labels, np.int64)), 0


def perturbations(
    quantized: Mapping[str, FakeQuant], operands: Tensors, constraints: BitConstraints
) -> Iterator[tuple[str, int, torch.Tensor]]:
    """(quantizer, bits, operand on its grid minus operand) of every width that remains."""
    for name, quantizer in quantized.items():
        for bits in constraints.options[name]:
            yield name, bits, rounded_to_grid(quantizer, operands[name], bits) - operands[name]


def noise_to_signal_of(
    quantized: Mapping[str, FakeQuant], operands: Tensors, constraints: BitConstraints
) -> dict[tuple[str, int], float]:
    """(quantizer, bits) → mean squared change of the operand over its mean square."""
    return {
        (name, bits): float(change.square().mean()) / (float(operands[name].square().mean()) or 1.0)
        for name, bits, change in perturbations(quantized, operands, constraints)
    }
