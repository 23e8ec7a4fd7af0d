"""Sensitivities are measured once: a store hands them to every later budget."""

import pytest

import qir.models
from qir.backends import load_target
from qir.errors import SearchError
from qir.fake_quant import FakeQuant
from qir.passes.constraints.propagate_constraints import BitConstraints
from qir.search import Store, load_network, prepare, recipe
from qir.search.metrics import measuring
from qir.search.metrics.measuring import METRICS, measure
from qir.search.problem.sensitivity import Sensitivity


@pytest.fixture(scope="module")
def samples():
    return qir.models.fashion_mnist("calibration")


@pytest.fixture(scope="module")
def lenet(samples):
    module = load_network(qir.models.path("lenet"))
    return module, prepare(module, load_target("npu-148"), samples.images[:32], input_widths="all")


@pytest.fixture
def passes(monkeypatch):
    """How often a metric was measured."""
    counted, original = [], measuring._measured

    def count(*arguments):
        counted.append(arguments)
        return original(*arguments)

    monkeypatch.setattr(measuring, "_measured", count)
    return counted


def test_later_budgets_measure_nothing(lenet, samples, passes, tmp_path):
    module, _ = lenet
    given = {"target": "npu-148", "data": samples.images[:32], "metric_images": 8, "store": tmp_path / "s.db"}
    values = [recipe("zeroq").run(module, budget={"size": limit}, **given).value for limit in ("0.4x", "0.6x", "0.8x")]
    assert len(passes) == 1
    assert values == sorted(values, reverse=True)


def test_what_a_sensitivity_depends_on_invalidates_it(lenet, samples, passes, tmp_path):
    module, constraints = lenet
    images, store = samples.images[:8], Store(tmp_path / "s.db")
    first = measure("output-divergence", module, constraints, images, store=store)
    assert measure("output-divergence", module, constraints, images, store=store) == first
    assert len(passes) == 1
    measure("output-divergence", module, constraints, images, store=store, correct=False)
    measure("output-divergence", module, constraints, samples.images[8:16], store=store)
    measure("mse", module, constraints, images, store=store)
    changed = module.clone()
    quantizer = FakeQuant(changed.graph.fake_quants()[0])
    quantizer.calibration = quantizer.calibration * 2
    measure("output-divergence", changed, constraints, images, store=store)
    assert len(passes) == 5
    store.close()


def test_measured_values_of_a_recipe_are_kept(lenet, samples, tmp_path):
    given = {
        "target": "npu-148",
        "data": samples.images[:32],
        "labels": samples.labels[:32],
        "budget": {"size": "0.6x"},
        "evaluations": 3,
        "store": tmp_path / "s.db",
    }
    first, again = recipe("jasq").run(lenet[0], **given), recipe("jasq").run(lenet[0], **given)
    assert again.counts["stored"] == 3
    assert again.policy == first.policy
    other = recipe("jasq").run(lenet[0], **{**given, "data": samples.images[32:64]})
    assert other.counts["stored"] == 0


def test_sensitivities_survive_as_text():
    found = Sensitivity("mse", {("a", 2): 0.1 + 0.2, ("b", 8): 1e-30}, 3, 4)
    assert Sensitivity.parse(str(found)) == found


def test_a_width_costs_what_every_quantizer_after_it_costs_however_far_it_follows():
    """The chain c → a → b is found in another order: b follows a before a is known to follow c."""
    implied = {"b": ("a", {2: 1, 4: 4}), "a": ("c", {2: 2, 8: 4})}
    constraints = BitConstraints({"a": (2, 4), "b": (1, 4), "c": (2, 8)}, (), implied)
    values = {("c", 2): 100.0, ("c", 8): 1.0, ("a", 2): 20.0, ("a", 4): 10.0, ("b", 1): 3.0, ("b", 4): 2.0}
    assert Sensitivity("m", values, 1).per_decision(constraints) == [[123.0, 13.0]]


def test_unknown_metrics_and_options_are_named(lenet, samples):
    module, constraints = lenet
    with pytest.raises(SearchError, match=r"metric 'luck' is unknown: expected one of adversarial-noise"):
        measure("luck", module, constraints, samples.images[:2])
    with pytest.raises(SearchError, match=r"'mse': unknown options \['correct'\]"):
        measure("mse", module, constraints, samples.images[:2], correct=True)
    assert set(METRICS) >= {"feature-separability", "pca-significance", "rate-distortion"}
