from __future__ import annotations

import pytest

import qir.models
from qir.passes import PassContext, PassManager, parse_pipeline
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
        PassManager(parse_pipeline(f"{SIMPLIFY},insert-fake-quant{{{options}}}")).run(module, PassContext())
        return module

    return make
