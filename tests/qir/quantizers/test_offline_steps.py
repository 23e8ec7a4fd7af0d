"""The offline steps of ClipQ and PotQ against minimization of the exact squared error under a normal."""

import numpy as np
import pytest
from scipy.optimize import minimize_scalar
from scipy.stats import norm

from qir.quantizers import get_scheme
from qir.quantizers.affine import clipq
from qir.quantizers.tables import potq


def normal_loss(parameters, half):
    levels, cuts = get_scheme("uniform").grid(parameters)[0].astype(float), None
    if parameters.boundaries is not None:
        cuts = parameters.boundaries[0].astype(float)
    else:
        cuts = (levels[1:] + levels[:-1]) / 2
    low = np.concatenate([[0.0 if half else -np.inf], cuts])
    high = np.concatenate([cuts, [np.inf]])
    mass = norm.cdf(high) - norm.cdf(low)
    first = norm.pdf(low) - norm.pdf(high)
    edge = lambda t: np.where(np.isinf(t), 0, np.nan_to_num(t) * norm.pdf(t))  # noqa: E731
    second = mass + edge(low) - edge(high)
    return float(np.sum(second - 2 * levels * first + levels**2 * mass))


def loss_at(name, bits, step, signed):
    scheme = get_scheme(name)
    if name.startswith("clipq"):
        high = step * (2 ** (bits - 1) if signed else 2**bits - 1)
    else:
        high = step * 2.0 ** ((2 ** (bits - 1) - 1 if bits > 1 else -1) if signed else 2**bits - 2)
    return normal_loss(scheme.parameters([[-high if signed else 0.0, high]], bits, signed), half=not signed)


@pytest.mark.parametrize("signed", [True, False])
@pytest.mark.parametrize(("name", "bits"), [("clipq", b) for b in range(1, 9)] + [("potq", b) for b in range(1, 5)])
def test_offline_steps_are_optimal_on_a_normal(name, bits, signed):
    module = clipq if name == "clipq" else potq
    step = (module.NORMAL_STEP if signed else module.HALF_NORMAL_STEP)[bits]
    found = minimize_scalar(
        lambda s: loss_at(name, bits, s, signed),
        bounds=(step / 1.4, step * 1.4),
        method="bounded",
        options={"xatol": 1e-7},
    )
    assert loss_at(name, bits, step, signed) <= found.fun * (1 + 1e-6)
    assert step == pytest.approx(found.x, rel=2e-2)


@pytest.mark.parametrize(("name", "bits"), [("clipq", b) for b in range(2, 8)] + [("potq", b) for b in range(2, 5)])
def test_the_printed_steps_are_not_optimal(name, bits):
    paper = get_scheme(f"{name}-paper").steps[bits]
    assert loss_at(name, bits, paper, True) > loss_at(name, bits, get_scheme(name).steps[bits], True)
