"""Quantizers that gradients can change: grids that follow their tensor, and a soft choice among schemes.

The parts plug into a `TorchModule` through `Relaxation`, a hook that replaces what fake-quant nodes compute. The graph
stays as it is until a method writes its choice back.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from qir.backends.torch.quantizers import TorchParameters, TorchScheme, get_torch_scheme
from qir.backends.torch.quantizers.blocks import fake_quantize
from qir.errors import DataError, SearchError
from qir.fake_quant import FakeQuant
from qir.graph import Node

SAMPLE = 1 << 15
"""Activation ranges are fitted to at most so many values of a batch, evenly spread."""


def temperature(epoch: int, epochs: int, start: float, exponent: float) -> float:
    """Temperature of the soft choice: `start * (1 - epoch / epochs) ** exponent` (AutoQNN equation 3), 1e-3 or more."""
    return max(float(start * (1 - epoch / epochs) ** exponent), 1e-3)


class RunningGrid:
    """A grid that follows its tensor: fitted to weights at every step, to activations as a moving average.

    Args:
        scheme: how ranges and grids are made.
        signed: whether codes are signed; unsigned ones become so where the first values reach below zero and signed
            codes lose less, as the unsigned grids of most schemes begin at zero.
        axis: axis of the channels, None for one grid.
        momentum: share of the old range that a new batch leaves (AutoQNN's activations: 0.9); 0 for weights.
    """

    def __init__(self, scheme: TorchScheme, signed: bool, axis: int | None, momentum: float) -> None:
        self.scheme, self.signed, self.axis, self.momentum = scheme, signed, axis, momentum
        self.sample: NDArray[np.float32] | None = None
        self._state: dict[int, NDArray[np.float32]] = {}

    def parameters(self, x: Tensor, bits: int, update: bool) -> TorchParameters:
        """Return the grid at a width, after it has seen `x` where `update`, or where the width is new."""
        if update or bits not in self._state:
            if self.sample is None:
                self.signed = self._chosen_sign(self._thin(x), bits)
            self.sample = self._thin(x)
            seen = self._fit(self.sample, bits)
            old = self._state.get(bits)
            keep = self.momentum if old is not None else 0.0
            self._state[bits] = seen if old is None else (keep * old + (1 - keep) * seen).astype(np.float32)
        return TorchParameters.of(self._grid(bits), x.device)

    def fake_quantize(self, x: Tensor, bits: int, update: bool) -> Tensor:
        """Put a tensor on its grid; gradients pass straight through."""
        return self.scheme.fake_quantize(x, self.parameters(x, bits, update), self.axis)

    def stored(self, bits: int) -> NDArray[np.float32]:
        """Return the ranges [channels or 1, 2], or levels where the scheme stores levels, at a width.

        Raises:
            SearchError: the quantizer has not seen data.
        """
        if bits not in self._state:
            if self.sample is None:
                raise SearchError(
                    f"scheme {self.scheme.name!r}: the quantizer has not seen data; train at least one step"
                )
            self._state[bits] = self._fit(self.sample, bits)
        return self._state[bits]

    def _chosen_sign(self, sample: NDArray[np.float32], bits: int) -> bool:
        scheme = self.scheme.scheme
        if self.signed or sample.min() >= 0 or True not in scheme.signedness:
            return self.signed
        errors = []
        for signed in (False, True):
            grid = scheme.fit_parameters(sample, bits, signed, False, self.axis)
            change = scheme.fake_quantize(sample, grid, self.axis) - sample
            errors.append(float(np.square(change, dtype=np.float64).sum()))
        return errors[1] < errors[0]

    def _grid(self, bits: int) -> Any:
        numpy_scheme = self.scheme.scheme
        if numpy_scheme.stores_levels:
            return numpy_scheme.parameters_from_levels(self._state[bits], bits, self.signed)
        return numpy_scheme.parameters(self._state[bits], bits, self.signed, narrow=False)

    def _fit(self, sample: NDArray[np.float32], bits: int) -> NDArray[np.float32]:
        numpy_scheme = self.scheme.scheme
        if numpy_scheme.stores_levels:
            return numpy_scheme.fit_parameters(sample, bits, self.signed, False, self.axis).table
        return numpy_scheme.fit(sample, bits, self.signed, False, self.axis)

    def _thin(self, x: Tensor) -> NDArray[np.float32]:
        values = x.detach()
        if self.axis is None and values.numel() > SAMPLE:
            values = values.reshape(-1)[:: values.numel() // SAMPLE]
        array: NDArray[np.float32] = values.cpu().numpy()
        if not np.isfinite(array).all():
            raise DataError(f"scheme {self.scheme.name!r}: training diverged, a tensor is not finite: lower the rate")
        return array


class SoftChoice(nn.Module):
    """A sum of candidate quantizers weighted by Gumbel-Softmax probabilities (AutoQNN equation 2).

    Args:
        grids: candidates.
        bits: width of each candidate.
        logits: state parameters theta [candidates]; may be shared between quantizers (coarse-grained search).
        generator: source of the Gumbel noise.
    """

    def __init__(
        self, grids: Sequence[RunningGrid], bits: Sequence[int], logits: nn.Parameter, generator: torch.Generator
    ) -> None:
        super().__init__()
        self.grids, self.bits, self.logits, self.generator = tuple(grids), tuple(bits), logits, generator
        self.temperature = 1.0

    def forward(self, x: Tensor) -> Tensor:
        """Return the expected quantized tensor; without noise outside of training."""
        weights = soft_weights(self.logits, self.temperature, self.generator if self.training else None)
        outputs = [grid.fake_quantize(x, bits, self.training) for grid, bits in zip(self.grids, self.bits, strict=True)]
        result = weights[0] * outputs[0]
        for weight, output in zip(weights[1:], outputs[1:], strict=True):
            result = result + weight * output
        return result

    @property
    def probabilities(self) -> list[float]:
        """`softmax(theta)`, one per candidate."""
        return [float(p) for p in torch.softmax(self.logits.detach(), 0)]


def soft_weights(logits: Tensor, temperature: float, generator: torch.Generator | None) -> Tensor:
    """`softmax((theta + g) / temperature)`, g ~ Gumbel(0, 1); g = 0 without a generator."""
    noise = torch.zeros_like(logits)
    if generator is not None:
        uniform = torch.rand(logits.shape, generator=generator).clamp_(1e-20, 1 - 1e-7)
        noise = -torch.log(-torch.log(uniform)).to(logits.device)
    return torch.softmax((logits + noise) / temperature, 0)


class Relaxation:
    """A hook for `TorchModule` that computes fake-quant nodes by relaxed quantizers.

    Run the network inside `network.quantizers_off()` with this hook: nodes that have a relaxed quantizer use it, all
    others keep their calibrated grid. Biases stay float meanwhile.

    Args:
        relaxed: relaxed quantizers by the name of their node.
    """

    def __init__(self, relaxed: Mapping[str, nn.Module]) -> None:
        self.relaxed = relaxed
        self.elements: dict[str, int] = {}
        self._fixed: dict[str, tuple[TorchScheme, TorchParameters]] = {}

    def __call__(self, node: Node, result: Tensor) -> Tensor:
        """Replace the result of a fake-quant node."""
        if not node.is_fake_quant:
            return result
        quantizer = FakeQuant(node)
        constant = quantizer.source.constant is not None
        self.elements[quantizer.name] = result.numel() if constant else result[0].numel()
        if quantizer.name in self.relaxed:
            relaxed: Tensor = self.relaxed[quantizer.name](result)
            return relaxed
        scheme, parameters = self._fixed_grid(quantizer, result.device)
        return fake_quantize(result, scheme, parameters, quantizer.granularity)

    def _fixed_grid(self, quantizer: FakeQuant, device: torch.device) -> tuple[TorchScheme, TorchParameters]:
        if quantizer.name not in self._fixed:
            bits = quantizer.bits
            if not isinstance(bits, int):
                raise SearchError(f"quantizer {quantizer.name!r}: has a width per channel; expected one width")
            scheme = get_torch_scheme(quantizer.scheme_name(bits))
            self._fixed[quantizer.name] = (scheme, TorchParameters.of(quantizer.grid(bits), device))
        return self._fixed[quantizer.name]
