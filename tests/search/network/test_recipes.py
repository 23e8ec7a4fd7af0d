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


def test_releq_needs_no_budget_and_decides_wrpn_weights_alone(samples):
    from qir.backends import load_target
    from qir.fake_quant import quantizers

    given = {"target": "stripes-serial-weights", "data": samples.images[:32], "labels": samples.labels[:32]}
    result = recipe("releq").run(qir.models.path("lenet"), evaluations=5, **given)
    module = load_network(qir.models.path("lenet"))
    constraints = prepare(
        module, load_target("stripes-serial-weights"), samples.images[:32], insert="weight_scheme=wrpn"
    )
    whole = constraints.complete(dict(result.policy))
    weights = {name for name, quantizer in quantizers(module.graph).items() if quantizer.is_weight}
    assert {bits for name, bits in whole.items() if name not in weights} == {8}
    assert len({tuple(e.policy[name] for name in weights & set(e.policy)) for e in result.evaluations}) == 5
    assert all(e.reward is not None for e in result.evaluations)
    assert result.reward == max(e.reward for e in result.evaluations)
    with pytest.raises(SearchError, match="'haq': give a budget"):
        recipe("haq").run(qir.models.path("lenet"), **given)


def test_policies_are_retrained_where_training_data_are_given(samples):
    from qir.backends.training.protocol import RetrainProtocol

    given = {"target": "stripes-serial-weights", "data": samples.images[:96], "labels": samples.labels[:96]}
    train = (samples.images[96:352], samples.labels[96:352])
    few = RetrainProtocol(steps=8, batch=32, learning_rate=0.01)
    asked = {"budget": {"size": "0.3x"}, "evaluations": 2}
    plain = recipe("haq").run(qir.models.path("lenet"), **asked, **given)
    trained = recipe("haq").run(qir.models.path("lenet"), train=train, protocol=few, **asked, **given)
    assert [e.policy for e in plain.evaluations] == [e.policy for e in trained.evaluations]
    assert [e.value for e in plain.evaluations] != [e.value for e in trained.evaluations]
    with pytest.raises(SearchError, match="'hawq-v3' retrains no policy"):
        recipe("hawq-v3").run(qir.models.path("lenet"), train=train, **asked, **given)
    with pytest.raises(SearchError, match="a protocol without samples"):
        recipe("haq").run(qir.models.path("lenet"), protocol="wang2024", **asked, **given)


def test_zeroq_is_zero_shot_with_distilled_data(monkeypatch):
    from functools import partial

    from qir.passes.calibration import distill_data

    short = partial(distill_data.DistillData, samples=8, iterations=5)
    monkeypatch.setattr(distill_data, "DistillData", short)
    given = {"target": "npu-148", "budget": {"latency": "0.5x"}, "metric_images": 8}
    one, two = (recipe("zeroq").run(qir.models.path("lenet"), data="distilled", seed=s, **given) for s in (0, 0))
    assert one.policy == two.policy
    assert one.costs["latency"] <= one.limits["latency"]
