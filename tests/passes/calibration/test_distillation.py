"""Calibration data distilled from BatchNorm statistics."""

from __future__ import annotations

import numpy as np
import pytest

import qir.models
from qir.backends.training.distillation import distill_data, statistics_distance
from qir.errors import QirError
from qir.fake_quant import FakeQuant
from qir.passes import run_passes
from qir.passes.simplify.canonicalize import SIMPLIFY
from qir.search import load_network


def test_the_statistics_of_distilled_data_approach_the_stored_ones() -> None:
    module = load_network(qir.models.path("lenet"))
    start = distill_data(module, samples=16, iterations=1, seed=3)
    made = distill_data(module, samples=16, iterations=60, seed=3)
    assert made.shape == (16, 1, 28, 28)
    assert made.dtype == np.float32
    assert np.isfinite(made).all()
    assert statistics_distance(module, made) < 0.1 * statistics_distance(module, start)


def test_the_same_seed_gives_the_same_data() -> None:
    module = load_network(qir.models.path("lenet"))
    first, second = (distill_data(module, samples=4, iterations=3, seed=1) for _ in range(2))
    np.testing.assert_array_equal(first, second)


def test_a_folded_network_is_refused_with_the_reason() -> None:
    module = load_network(qir.models.path("lenet"))
    run_passes(module, SIMPLIFY)
    with pytest.raises(QirError, match="before folding"):
        distill_data(module)


def test_distilled_data_calibrate_a_network() -> None:
    module = load_network(qir.models.path("lenet"))
    data = distill_data(module, samples=8, iterations=10)
    steps = f"{SIMPLIFY},insert-fake-quant,calibrate"
    run_passes(module, steps, data=data)
    assert all(FakeQuant(node).is_calibrated for node in module.graph.fake_quants())
