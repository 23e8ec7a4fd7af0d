"""Results that unchanged layers reuse are those that a plain network computes."""

import pickle

import numpy as np
import pytest
import torch

import qir.models
from qir.backends import load_target
from qir.backends.torch.module import TorchModule
from qir.backends.training.affine_correction import fit_affine_correction, pre_activations
from qir.passes.analysis.quantized_layers import quantized_layers
from qir.search import AccuracyObjective, EvaluationProtocol, load_network, output_divergence, prepare
from qir.search.evaluation.accuracy import accuracy_of
from qir.search.evaluation.reuse import Corrector, Remembered, ReusingNetwork, reusing


@pytest.fixture(scope="module", params=["lenet", "residual"])
def calibrated(request):
    module = load_network(qir.models.path(request.param))
    images = qir.models.fashion_mnist("calibration").images[:24]
    return module, prepare(module, load_target("npu-148"), images, input_widths="all"), images


def policies(constraints, count):
    rng = np.random.default_rng(0)
    for _ in range(count):
        changed = {name: int(rng.choice(constraints.options[name])) for name in constraints.decisions}
        yield constraints.complete(changed)


def test_outputs_equal_those_of_a_plain_network(calibrated):
    module, constraints, images = calibrated
    batch, plain, network = torch.from_numpy(images), TorchModule(module), ReusingNetwork(module)
    for policy in [*policies(constraints, 6)] * 3:
        plain.set_policy(policy)
        network.set_policy(policy)
        with torch.no_grad(), reusing(network, "images"):
            assert torch.equal(network(batch)[0], plain(batch)[0])
    assert network.memory.hits > 6


def test_corrections_equal_those_that_are_fitted_anew(calibrated):
    module, constraints, images = calibrated
    batch, plain, network = torch.from_numpy(images), TorchModule(module), ReusingNetwork(module)
    reference = pre_activations(plain, [layer.node for layer in quantized_layers(module.graph)], batch)
    corrector = Corrector(network, batch)
    for policy in policies(constraints, 6):
        plain.set_policy(policy)
        network.set_policy(policy)
        fitted, found = fit_affine_correction(plain, reference, batch), corrector.fit()
        assert fitted.terms.keys() == found.terms.keys()
        for node, terms in fitted.terms.items():
            assert all(torch.equal(a, b) for a, b in zip(terms, found.terms[node], strict=True))
        with torch.no_grad():
            assert torch.equal(corrector.output(found), plain(batch, hook=fitted)[0])


def test_a_change_of_the_last_layer_computes_only_the_last_layer(calibrated):
    module, constraints, images = calibrated
    network, computed = ReusingNetwork(module), []
    last = constraints.decisions[-1]

    def count(node, result):
        computed.append(node.name)
        return result

    for bits in constraints.options[last]:
        widest = {name: constraints.options[name][-1] for name in constraints.decisions}
        network.set_policy(constraints.complete({**widest, last: bits}))
        computed.clear()
        with torch.no_grad(), reusing(network, "images"):
            network(torch.from_numpy(images), hook=count)
    expensive = {layer.node.name for layer in quantized_layers(module.graph)}
    assert len(expensive.intersection(computed)) == 1


def test_sensitivities_equal_those_of_a_plain_network(calibrated):
    module, constraints, images = calibrated
    for correct in (False, True):
        plain = output_divergence(TorchModule(module), constraints, images, correct=correct)
        assert output_divergence(ReusingNetwork(module), constraints, images, correct=correct).values == plain.values


def test_changed_weights_are_seen(calibrated):
    module, _, images = calibrated
    network, batch = ReusingNetwork(module), torch.from_numpy(images)
    with torch.no_grad(), reusing(network, "images"):
        before = network(batch)[0]
        for parameter in network.trainable_constants().values():
            parameter.mul_(0.5)
        network.forget_weights()
        assert not torch.equal(network(batch)[0], before)


def test_values_depend_on_the_policy_alone(calibrated):
    module, constraints, _ = calibrated
    samples = qir.models.fashion_mnist("calibration")
    given = {"calibration": samples.take(16), "validation": qir.models.fashion_mnist("search-validation").take(60)}
    objective = AccuracyObjective(module, constraints, **given, protocol=EvaluationProtocol(batch=25))
    decided = [{name: p[name] for name in constraints.decisions} for p in policies(constraints, 4)]
    forwards = [objective(d) for d in decided]
    assert [objective(d) for d in reversed(decided)] == forwards[::-1]
    assert [pickle.loads(pickle.dumps(objective))(d) for d in decided[:1]] == forwards[:1]
    objective.reset()
    objective.network.set_policy(constraints.complete(decided[0]))
    assert accuracy_of(objective.network, given["validation"], batch=25, hook=objective.prepare(decided[0])) in forwards


def test_a_hopeless_policy_is_left_early(calibrated):
    module, _, _ = calibrated
    network = TorchModule(module)
    validation = qir.models.fashion_mnist("search-validation").take(60)
    seen = []
    whole = accuracy_of(network, validation, batch=10)
    assert accuracy_of(network, validation, batch=10, hopeless=0.1) == whole
    wrong = type(validation)(validation.images, (validation.labels + 1) % 10, "wrong")
    stopped = accuracy_of(network, wrong, batch=10, hook=lambda node, result: seen.append(node) or result, hopeless=0.9)
    assert stopped < 0.9
    assert len(seen) < 6 * len(network.graph)


def test_memory_keeps_what_comes_again_and_its_limit():
    memory = Remembered(limit=4 * 4)
    memory.put("a", torch.zeros(2))
    assert memory.get("a") is None
    for _ in range(2):
        memory.put("a", torch.zeros(2))
    assert memory.get("a") is not None
    memory.turn()
    memory.put("b", torch.zeros(2), once=True)
    memory.put("c", torch.zeros(2), once=True)
    assert memory.get("a") is None
    assert memory.bytes == 16
    memory.put("d", torch.zeros(2), once=True)
    assert memory.get("d") is None
    memory.clear()
    assert memory.bytes == 0
