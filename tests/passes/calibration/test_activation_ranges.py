"""Activations that reach below zero keep their negative values in every scheme."""

import numpy as np
import pytest

from qir.fake_quant import FakeQuant, make_fake_quant
from qir.graph import Value
from qir.passes.calibration.activation_ranges import activation_ranges
from qir.passes.calibration.observers import Histogram
from qir.quantizers import get_scheme
from qir.types import DType, TensorType

NORMAL = np.random.default_rng(0).normal(size=20_000).astype(np.float32)


def calibrated(values, scheme, widths=(3, 4)):
    """Node and grid at its larger width after calibration."""
    node = make_fake_quant(
        Value("x", TensorType(DType.FLOAT32, (20_000,))), name="x", bits=4, widths=widths, signed=False, scheme=scheme
    )
    histogram = Histogram()
    histogram.update(values)
    FakeQuant(node).calibration = activation_ranges(FakeQuant(node), histogram, "mse")
    return node, FakeQuant(node).grid(widths[-1])


@pytest.mark.parametrize(
    "scheme", ["uniform", "zoomq", "clipq", "potq", "fixedq", "lsq", "pact", "power-of-two", "additive-power-of-two"]
)
def test_values_on_both_sides_of_zero_are_kept(scheme):
    node, grid = calibrated(NORMAL, scheme)
    error = get_scheme(scheme).fake_quantize(NORMAL, grid) - NORMAL
    assert np.mean(error**2) < 0.07
    assert FakeQuant(node).signed is (scheme not in {"uniform", "zoomq"})


@pytest.mark.parametrize("scheme", ["clipq", "lsq"])
def test_unsigned_codes_stay_where_few_values_are_negative(scheme):
    for values in (np.maximum(NORMAL, 0), NORMAL * np.clip(NORMAL + 3, 0, 6) / 6):
        assert not FakeQuant(calibrated(values, scheme, widths=(2, 3))[0]).signed
