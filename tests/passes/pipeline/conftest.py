from __future__ import annotations

import pytest

import qir.models
from qir.backends import load_target
from qir.search import load_network, prepare


@pytest.fixture(scope="session")
def target():
    return load_target("npu-148")


@pytest.fixture(scope="session")
def splits():
    return {name: qir.models.fashion_mnist(name) for name in ("calibration", "retraining", "search-validation", "test")}


@pytest.fixture(scope="session")
def prepared(target, splits):
    module = load_network(qir.models.path("lenet"))
    return module, prepare(module, target, splits["calibration"].images, input_widths="all")


@pytest.fixture
def lenet(prepared):
    module, constraints = prepared
    return module.clone(), constraints
