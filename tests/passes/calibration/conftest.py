from __future__ import annotations

import pytest

import qir.models
from qir.passes import run_passes
from qir.passes.simplify.canonicalize import SIMPLIFY
from qir.search import load_network


@pytest.fixture(scope="session")
def images():
    return qir.models.fashion_mnist("calibration").images[:64]


@pytest.fixture
def inserted():
    """Makes a simplified network with quantizers, not calibrated."""

    def make(network: str, options: str = ""):
        module = load_network(qir.models.path(network))
        run_passes(module, f"{SIMPLIFY},insert-fake-quant{{{options}}}")
        return module

    return make
