"""Recipes on the shipped LeNet."""

from pathlib import Path

import numpy as np
import pytest

import qir.models
from qir.backends import load_target
from qir.errors import DataError, SearchError
from qir.passes.analysis.quantized_layers import quantized_layers
from qir.search import load_network, prepare, recipe
from qir.search.metrics.measuring import METRICS
from qir.search.recipes.table import RECIPES

DOCUMENT = Path(__file__).parents[3] / "docs" / "reference" / "recipes.md"


@pytest.fixture(scope="module")
def samples():
    return qir.models.fashion_mnist("calibration")


@pytest.fixture(scope="module")
def lenet(samples):
    module = load_network(qir.models.path("lenet"))
    prepare(module, load_target("npu-148"), samples.images[:64], input_widths="all")
    return module


@pytest.mark.parametrize("name", RECIPES)
def test_every_recipe_meets_the_budget(name, lenet, samples):
    result = recipe(name).run(
        lenet,
        target="npu-148",
        data=samples.images[:64],
        labels=samples.labels[:64],
        budget={"size": "0.6x"},
        evaluations=6,
        metric_images=8,
    )
    uniform = sum(8 * layer.weight_tensor.size for layer in quantized_layers(lenet.graph))
    assert result.costs["size"] <= 0.6 * uniform
    assert result.minimised == (RECIPES[name].objective == "proxy")
    assert result.method == RECIPES[name].solver


def test_exact_recipes_agree_on_one_metric(lenet, samples):
    given = {"target": "npu-148", "data": samples.images[:32], "budget": {"latency": "0.6x"}, "metric_images": 8}
    first, second = recipe("hawq-v3").run(lenet, **given), recipe("hawq-v2").run(lenet, **given)
    assert first.value == pytest.approx(second.value)
    assert first.status == second.status == "optimal"


def test_a_path_is_prepared_first(samples):
    result = recipe("mpqnnco").run(
        qir.models.path("lenet"),
        target="npu-148",
        data=samples.images[:32],
        budget={"size": "0.7x"},
        input_widths="all",
        metric_images=4,
    )
    assert result.policy


def test_measuring_recipes_ask_for_labels(lenet, samples):
    with pytest.raises(DataError, match="'haq' measures accuracy: give labels"):
        recipe("haq").run(lenet, target="npu-148", data=samples.images[:8], budget={"size": "0.6x"})
    with pytest.raises(DataError, match="8 images but 3 labels"):
        recipe("haq").run(
            lenet, target="npu-148", data=samples.images[:8], labels=np.zeros(3, np.int64), budget={"size": "0.6x"}
        )


def test_unknown_recipes_are_named():
    with pytest.raises(SearchError, match=r"'nas' is unknown: expected one of adrl"):
        recipe("nas")


def test_recipes_name_metrics_that_exist():
    assert {RECIPES[name].metric for name in RECIPES} - {None} <= set(METRICS)


def test_the_document_is_current(script):
    made = script("tools/documents/recipes.py").document()
    assert DOCUMENT.read_text(encoding="utf-8") == made, (
        "run: python tools/documents/recipes.py > docs/reference/recipes.md"
    )


@pytest.mark.parametrize("name", ["releq", "evoq"])
def test_recipes_tell_their_progress(name, lenet, samples):
    seen = []
    given = {
        "target": "npu-148",
        "data": samples.images[:32],
        "labels": samples.labels[:32],
        "budget": {"size": "0.7x"},
    }
    result = recipe(name).run(lenet, **given, evaluations=4, metric_images=8, progress=seen.append)
    assert len(seen) == result.counts.get("episodes", 4)
    assert seen[-1].evaluations == 4
