"""One memory budget: what is chosen and written does not depend on it, and what does not fit is refused by name."""

import numpy as np
import pytest
import torch  # noqa: F401 - what the process takes before a budget is given

import qir
from qir import models
from qir.backends.costs.target import as_target
from qir.backends.execution.session import OrtSession  # noqa: F401 - likewise
from qir.errors import QirError
from qir.memory import budgeted, resident
from qir.passes.data.recording import Recorded
from qir.search.evaluation.reuse import Remembered
from qir.search.metrics.measuring import measure
from qir.search.network.preparation import load_network, prepare

ROOM = 256 << 20
"""Bytes beyond what the process takes that a network of LeNet's size needs at most."""


@pytest.fixture(scope="module")
def images():
    return models.fashion_mnist("calibration").images[:64]


def test_codes_and_policy_are_the_same_under_a_tiny_and_a_large_budget(images, tmp_path):
    def made(name, memory):
        done = qir.quantize(
            models.path("lenet"),
            target="npu-148",
            data=images,
            budgets={"latency": "0.5x"},
            sensitivity="output-distance",
            output=tmp_path / name / "model.quant.onnx",
            compare=False,
            memory=memory,
        )
        return done.policy, done.written.model.read_bytes(), done.written.guide.read_bytes()

    assert made("tiny", resident() + ROOM) == made("large", "64GB")


def test_sensitivities_are_computed_again_where_nothing_can_be_kept(images):
    module = load_network(models.path("lenet"))
    constraints = prepare(module, as_target("npu-148"), images, seed=0, reports={}, input_widths="8", method="mse")
    batch = [[images[:8]]]
    with budgeted("64GB"):
        kept = measure("output-distance", module, constraints, batch)
    with budgeted(1):
        assert Remembered().limit == 0
        again = measure("output-distance", module, constraints, batch)
    assert again.values == kept.values


def test_feeds_that_can_be_read_once_lie_in_a_file_where_memory_is_short():
    feeds = [np.full((4, 8), number, np.float32) for number in range(5)]
    with budgeted(1):
        record = Recorded(iter(feeds))
    assert [np.array_equal(*pair) for pair in zip(record, feeds, strict=True)] == [True] * 5
    assert record._file is not None


def test_one_sample_that_does_not_fit_is_refused_with_what_is_needed(images, tmp_path):
    with pytest.raises(QirError, match=r"takes about .* MiB, and the process .*give at least .*--memory"):
        qir.quantize(models.path("lenet"), data=images, output=tmp_path, memory=1 << 20)
