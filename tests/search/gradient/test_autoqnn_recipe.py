"""AutoQNN as a recipe: Algorithm 2 from a float network, under budgets of a target or of average bits."""

import numpy as np
import pytest
import torch

import qir.models
from qir.backends import cost_table
from qir.backends.execution.session import OrtSession
from qir.backends.torch.module import TorchModule
from qir.errors import DataError, InfeasibleError, SearchError
from qir.fake_quant import quantizers
from qir.graph import Graph, Node
from qir.module import Module
from qir.ops import infer_graph
from qir.passes import export
from qir.passes.constraints.propagate_constraints import bit_constraints
from qir.search import recipe
from qir.search.gradient.autoqnn import CANDIDATES, AutoQnn
from qir.search.recipes.autoqnn import run_autoqnn
from qir.tensor import Tensor
from qir.types import DType, TensorType


@pytest.fixture(scope="module")
def samples():
    found = qir.models.fashion_mnist("calibration")
    return {"data": found.images[:128], "labels": found.labels[:128]}


@pytest.fixture(scope="module")
def result(samples):
    return recipe("autoqnn").run(
        qir.models.path("lenet"),
        target="npu-148",
        budget={"latency": "0.6x", "energy": "0.8x"},
        evaluations=8,
        **samples,
    )


def test_a_float_network_gets_schemes_bits_and_weights_within_every_budget(result):
    from qir.backends import load_target
    from qir.search.network.problem import METRICS

    made = quantizers(result.module.graph)
    assert {name: made[name].scheme_name(made[name].bits) for name in result.schemes} == dict(result.schemes)
    assert set(result.schemes.values()) <= set(CANDIDATES)
    target = load_target("npu-148")
    table = cost_table(result.module, target)
    wide = dict.fromkeys(made, 8)
    for name, share in (("latency", 0.6), ("energy", 0.8)):
        column = METRICS[name]
        bits = {name: node.bits for name, node in made.items()}
        cost, reference = (sum(getattr(row.cost, column) for row in table.rows(p)) for p in (bits, wide))
        assert cost == pytest.approx(result.costs[name])
        assert cost <= share * reference * (1 + 1e-9)


def test_weights_that_become_ternary_are_in_the_policy_too(samples, monkeypatch):
    from qir.backends import load_target
    from qir.search import load_network
    from qir.search.problem.parts import Budget
    from qir.search.recipes.autoqnn import quantized_architecture

    search = AutoQnn.search_schemes

    def ternary_weights(run, *given, **named):
        found = search(run, *given, **named)
        weights = [name for name in found.schemes if "ternary" in found.probabilities[-1][name]]
        assert weights
        assert all(run.quantizers[name].is_weight for name in weights)
        found.schemes.update(dict.fromkeys(weights, "ternary"))
        return found

    monkeypatch.setattr(AutoQnn, "search_schemes", ternary_weights)
    network, target = load_network(qir.models.path("lenet")), load_target("bitfusion-e")
    constraints = quantized_architecture(network, target, samples["data"][:32])
    found = run_autoqnn(
        network,
        samples["data"][:32],
        samples["labels"][:32],
        target=target,
        budget={"bits": Budget(maximum=5.0)},
        epochs=2,
        candidates=("ternary", "clipq"),
    )
    assert "ternary" in found.schemes.values()
    whole = constraints.complete(dict(found.policy))
    made = quantizers(found.module.graph)
    assert {name: made[name].bits for name in whole} == dict(whole)


def test_the_policy_is_legal_on_the_target(result):
    from qir.backends import load_target

    constraints = bit_constraints(result.module, load_target("npu-148").operand_rules())
    bits = {name: node.bits for name, node in quantizers(result.module.graph).items()}
    for relation in constraints.relations:
        assert (bits[relation.first], bits[relation.second]) in relation.allowed


def test_probabilities_are_recorded_and_the_value_is_that_of_the_network(result, samples):
    assert len(result.scheme_search.probabilities) == 1
    assert len(result.precision.losses) == 7
    with torch.no_grad():
        (logits, *_) = TorchModule(result.module)(torch.from_numpy(samples["data"][64:]))
    assert result.value == pytest.approx(float((logits.argmax(1).numpy() == samples["labels"][64:]).mean()))
    assert result.to_json()["method"] == "autoqnn"


def test_the_network_can_be_exported_and_computes_the_same(result, samples, tmp_path):
    written = export(result.module, tmp_path / "lenet.onnx", data=samples["data"][:32])
    (found,) = OrtSession(written.model).run({"input": samples["data"][64:]}).values()
    with torch.no_grad():
        (expected, *_) = TorchModule(result.module)(torch.from_numpy(samples["data"][64:]))
    assert (found.argmax(1) == expected.numpy().argmax(1)).mean() > 0.98
    np.testing.assert_allclose(found, expected.numpy(), atol=0.1 * np.abs(expected.numpy()).max())


def test_average_bits_are_a_budget(samples):
    found = recipe("autoqnn").run(
        qir.models.path("lenet"), target="bitfusion-e", budget={"bits": "4"}, evaluations=4, **samples
    )
    kept = {name: n for name, n in found.precision.elements.items() if name in found.schemes}
    bits = {name: quantizers(found.module.graph)[name].bits for name in kept}
    assert sum(bits[name] * count for name, count in kept.items()) / sum(kept.values()) <= 4 + 1e-9
    assert found.costs["bits"] <= 4 + 1e-9


def test_the_same_seed_gives_the_same_network(samples):
    from qir.backends import load_target
    from qir.search import load_network
    from qir.search.problem.parts import Budget

    def run():
        return run_autoqnn(
            load_network(qir.models.path("lenet")),
            samples["data"][:32],
            samples["labels"][:32],
            target=load_target("npu-148"),
            budget={"size": Budget(ratio=0.6)},
            epochs=2,
        )

    one, two = run(), run()
    assert one.policy == two.policy
    assert one.scheme_search.probabilities == two.scheme_search.probabilities
    for first, second in zip(one.module.graph.constants, two.module.graph.constants, strict=True):
        assert np.array_equal(first.constant.numpy(), second.constant.numpy())


def test_bad_input_is_named(samples):
    given = {"target": "npu-148", "evaluations": 2}
    path = qir.models.path("lenet")
    with pytest.raises(DataError, match="labels"):
        recipe("autoqnn").run(path, data=samples["data"], budget={"size": "0.6x"}, **given)
    with pytest.raises(InfeasibleError, match="latency"):
        recipe("autoqnn").run(path, budget={"latency": "0.001x"}, **given, **samples)
    with pytest.raises(SearchError, match="leave the store out"):
        recipe("autoqnn").run(path, budget={"size": "0.6x"}, store="s.db", **given, **samples)
    with pytest.raises(SearchError, match="speed"):
        recipe("autoqnn").run(path, budget={"speed": "0.6x"}, **given, **samples)


def recurrent_network():
    """Transpose to time first, an LSTM of 12 units, its last state, and two classes."""
    rng = np.random.default_rng(3)
    graph = Graph("recurrent")
    value = graph.add_input("x", TensorType(DType.FLOAT32, ("batch", 5, 8)))

    def constant(name, array):
        return graph.add_constant(name, Tensor.of(array))

    def add(op, inputs, results, name, **attributes):
        return graph.insert(Node(op, inputs, results, name=name, attributes=attributes))

    first = add("Transpose", (value,), ("t",), "transpose", perm=[1, 0, 2]).result
    w, r = ((rng.normal(size=(1, 48, n)) * 0.4).astype(np.float32) for n in (8, 12))
    lstm = add("LSTM", (first, constant("w", w), constant("r", r)), ("states", "last"), "lstm", hidden_size=12)
    state = add("Squeeze", (lstm.results[1], constant("axes", np.array([0]))), ("s",), "squeeze").result
    weight = constant("dense.w", (rng.normal(size=(2, 12)) * 0.4).astype(np.float32))
    dense = add("Gemm", (state, weight), ("logits",), "dense", transB=1)
    graph.set_outputs([dense.result])
    module = Module(graph, opsets={"": 21})
    infer_graph(module)
    return module


def test_schemes_and_bits_of_an_lstm_are_learned():
    rng = np.random.default_rng(0)
    images = rng.normal(size=(64, 5, 8)).astype(np.float32)
    labels = (images[:, -1, 0] > 0).astype(np.int64)
    found = recipe("autoqnn").run(
        recurrent_network(), target="bitfusion-e", data=images, labels=labels, budget={"bits": "5"}, evaluations=14
    )
    recurrent = {name for name in found.schemes if name.startswith("lstm")}
    assert len(recurrent) >= 2
    assert recurrent <= set(found.scheme_search.probabilities[-1])
    assert found.scheme_search.probabilities[-1] != found.scheme_search.probabilities[0]
    assert all(found.precision.learned[name] != found.policy[name] for name in recurrent & set(found.policy))
    assert found.costs["bits"] <= 5 + 1e-9
