"""Output error over rate with ever smaller slopes (OBACWA): what a Lagrangian bit allocation can use."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import TYPE_CHECKING

from qir.passes.constraints.propagate_constraints import BitConstraints
from qir.search.metrics.outputs.output_error import output_error
from qir.search.problem.sensitivity import Sensitivity
from qir.tensor import Array

if TYPE_CHECKING:
    from qir.backends.torch.module import TorchModule


def rate_distortion_slope(network: TorchModule, constraints: BitConstraints, images: Array) -> Sensitivity:
    """Return the lower convex envelope over the width of the output error that each quantizer makes alone.

    Zhe, Lin, Chandrasekhar and Girod, 2019, "Optimizing the bit allocation for compression of weights and activations
    of deep neural networks" (ICIP): output errors of single tensors add up (survey, equation 12), and at the optimum
    every tensor has the same slope of error over rate (equation 14). A tensor's rate is its elements times the width,
    so its slopes are those of this envelope over its number of elements; widths above the envelope are never at an
    equal-slope optimum and cost what the mix of their neighbours on it would.

    Args:
        network: calibrated network; not changed.
        constraints: decisions and options.
        images: float32 [N, …] of the calibration split.

    Returns:
        The passes of `output_error`; unit: the outputs' squared.

    Raises:
        DataError: there are no images.
    """
    measured = output_error(network, constraints, images)
    values: dict[tuple[str, int], float] = {}
    for name in dict.fromkeys(quantizer for quantizer, _ in measured.values):
        widths = sorted(bits for quantizer, bits in measured.values if quantizer == name)
        errors = envelope(widths, [measured.values[name, bits] for bits in widths])
        values |= {(name, bits): error for bits, error in zip(widths, errors, strict=True)}
    return Sensitivity("rate-distortion", values, measured.forward_passes)


def envelope(rates: Sequence[float], errors: Sequence[float]) -> list[float]:
    """Return the largest convex function of the rates (ascending) that is nowhere above the errors, never rising."""
    falling = list(errors)
    for i in range(1, len(falling)):
        falling[i] = min(falling[i], falling[i - 1])
    corners: list[int] = []
    for i in range(len(rates)):
        while len(corners) > 1 and _slope(rates, falling, corners[-2], corners[-1]) >= _slope(
            rates, falling, corners[-1], i
        ):
            corners.pop()
        corners.append(i)
    found = [falling[0]]
    for a, b in pairwise(corners):
        slope = _slope(rates, falling, a, b)
        found += [falling[a] + slope * (rates[i] - rates[a]) for i in range(a + 1, b + 1)]
    return found


def _slope(rates: Sequence[float], errors: Sequence[float], a: int, b: int) -> float:
    return (errors[b] - errors[a]) / (rates[b] - rates[a])
