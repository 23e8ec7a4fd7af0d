"""Retraining: it learns, is deterministic, resumes, stops early, writes back."""

from dataclasses import dataclass

import numpy as np
import pytest
import torch

from qir.backends import retrain as retrain_module
from qir.backends.torch.module import TorchModule
from qir.backends.training.loop import PRESETS, RetrainProtocol, protocol, retrain_network
from qir.errors import DataError, QirError
from qir.fake_quant import FakeQuant, quantizers
from qir.policy import Policy
from qir.quantizers import get_scheme

LOW = dict.fromkeys(("conv1.input", "conv1.weight", "conv2.input", "conv2.weight", "fc.input", "fc.weight"), 4)


@dataclass
class Samples:
    images: np.ndarray
    labels: np.ndarray


@pytest.fixture
def network_at(make_network):
    def build(policy=LOW, scheme="uniform"):
        made = TorchModule(make_network(scheme))
        made.set_policy(policy)
        return made

    return build


@pytest.fixture
def accuracy(make_samples):
    images, labels = make_samples(300, seed=9)

    def measure(network):
        with torch.no_grad():
            return float((network(torch.from_numpy(images))[0].argmax(1).numpy() == labels).mean())

    return measure


def weights_of(network):
    return {name: p.detach().clone() for name, p in network.trainable_constants().items()}


def test_retraining_learns(samples, network_at, accuracy):
    network = network_at()
    before = accuracy(network)
    losses = retrain_network(network, *samples, RetrainProtocol(steps=150, batch=32, learning_rate=0.05))
    assert len(losses) == 150
    assert np.mean(losses[-20:]) < 0.7 * np.mean(losses[:20])
    assert accuracy(network) > before + 0.2


def test_the_same_seed_gives_the_same_weights(samples, network_at):
    plan = RetrainProtocol(steps=10, batch=32, weight_decay=1e-4, distillation=0.3, temperature=2.0)
    first, second = network_at(), network_at()
    assert retrain_network(first, *samples, plan) == retrain_network(second, *samples, plan)
    assert all(torch.equal(weights_of(first)[k], v) for k, v in weights_of(second).items())


def test_distillation_teaches_what_the_float_network_said_before(samples, make_network):
    """With no share for the labels, wrong labels do no harm, and the outputs come nearer to the float network's."""
    images = torch.from_numpy(samples[0][:64])
    network = TorchModule(make_network())
    network.set_policy(LOW)
    with torch.no_grad(), network.quantizers_off():
        (float_logits,) = network(images)

    def distance():
        with torch.no_grad():
            (logits,) = network(images)
        return float(torch.nn.functional.cross_entropy(logits, float_logits.softmax(1)))

    before = distance()
    plan = RetrainProtocol(steps=120, batch=32, learning_rate=0.02, distillation=1.0)
    losses = retrain_network(network, samples[0][:64], np.zeros(64, np.int64), plan)
    with torch.no_grad():
        least = float(torch.nn.functional.cross_entropy(float_logits, float_logits.softmax(1)))
    assert distance() - least < 0.5 * (before - least)
    assert losses[-1] < losses[0]


def test_a_run_that_was_interrupted_ends_as_if_it_was_not(samples, tmp_path, network_at):
    plan = RetrainProtocol(steps=30, batch=32, validate_every=10)
    whole, broken, resumed = network_at(), network_at(), network_at()
    wanted = retrain_network(whole, *samples, plan)

    def interrupt(step, steps, loss):
        if step == 25:
            raise KeyboardInterrupt

    file = tmp_path / "run.pt"
    with pytest.raises(KeyboardInterrupt):
        retrain_network(broken, *samples, plan, progress=interrupt, checkpoint=file)
    seen = []
    found = retrain_network(resumed, *samples, plan, progress=lambda step, *_: seen.append(step), checkpoint=file)
    assert seen[0] == 21
    assert found == wanted
    assert all(torch.equal(weights_of(resumed)[k], v) for k, v in weights_of(whole).items())


def test_a_checkpoint_of_another_run_is_refused(samples, tmp_path, network_at):
    file = tmp_path / "run.pt"
    retrain_network(network_at(), *samples, RetrainProtocol(steps=5), checkpoint=file)
    with pytest.raises(DataError, match="another"):
        retrain_network(network_at(), *samples, RetrainProtocol(steps=6), checkpoint=file)
    file.write_bytes(b"no checkpoint")
    with pytest.raises(DataError, match="not a checkpoint"):
        retrain_network(network_at(), *samples, RetrainProtocol(steps=5), checkpoint=file)


def test_patience_stops_and_goes_back_to_the_best(samples, network_at):
    network, plan = network_at(), RetrainProtocol(steps=100, batch=32, validate_every=10, patience=2)
    values, kept = iter([0.5, 0.9, 0.4, 0.3, 0.2]), {}

    def validate():
        value = next(values)
        if value == 0.9:
            kept.update(weights_of(network))
        return value

    assert len(retrain_network(network, *samples, plan, validate=validate)) == 40
    assert all(torch.equal(weights_of(network)[k], v) for k, v in kept.items())


@pytest.mark.parametrize("scheme", ["lsq", "pact"])
def test_learned_ranges_move(samples, scheme, network_at):
    network = network_at(scheme=scheme)
    before = {name: p.detach().clone() for name, p in network.learn_ranges().items()}
    retrain_network(network, *samples, RetrainProtocol(steps=20, batch=32, range_learning_rate=0.01))
    assert any(not torch.equal(network.learn_ranges()[name], old) for name, old in before.items())


def test_a_module_is_retrained_without_being_changed(samples, make_network, network_at):
    module = make_network()
    before = {v.name: v.constant.digest() for v in module.graph.constants}
    made = retrain_module(module, Policy(LOW), Samples(*samples), RetrainProtocol(steps=30, batch=32))
    assert {v.name: v.constant.digest() for v in module.graph.constants} == before
    assert all(FakeQuant(node).bits == 4 for node in made.graph.fake_quants())
    network = network_at()
    retrain_network(network, *samples, RetrainProtocol(steps=30, batch=32))
    images = torch.from_numpy(samples[0][:8])
    assert torch.equal(TorchModule(made)(images)[0], network(images)[0])


def test_trained_widths_keep_their_ranges_and_the_others_are_refreshed(samples, make_network):
    module = make_network()
    made = retrain_module(module, Policy(LOW), Samples(*samples), RetrainProtocol(steps=20, batch=32))
    before, after = quantizers(module.graph)["conv2.weight"], quantizers(made.graph)["conv2.weight"]
    np.testing.assert_array_equal(after.ranges(4), before.ranges(4))
    weight = after.source.constant.numpy()
    for bits in (2, 8):
        np.testing.assert_array_equal(after.ranges(bits), get_scheme("uniform").fit(weight, bits, True, False, 0))
    assert not any(FakeQuant(node).is_stale for node in made.graph.fake_quants())


def test_a_preset_has_a_name_and_a_bar(samples, make_network, capsys):
    short = Samples(samples[0][:64], samples[1][:64])
    first = retrain_module(make_network(), Policy(LOW), short, "short", progress=True)
    assert "40/40" in capsys.readouterr().out
    second = retrain_module(make_network(), Policy(LOW), short, "short")
    for one, two in zip(first.graph.constants, second.graph.constants, strict=True):
        np.testing.assert_array_equal(one.constant.numpy(), two.constant.numpy())
    with pytest.raises(QirError, match="'brief' is unknown"):
        retrain_module(make_network(), Policy(LOW), short, "brief")


def test_validation_samples_stop_a_module_early(samples, make_network, make_samples):
    steps = []
    retrain_module(
        make_network(),
        Policy(LOW),
        Samples(*samples),
        RetrainProtocol(steps=400, batch=16, learning_rate=1e-6, validate_every=5, patience=2),
        validation=Samples(*make_samples(50, seed=9)),
        progress=lambda step, *_: steps.append(step),
    )
    assert len(steps) < 100


def test_epochs_count_steps():
    assert RetrainProtocol(epochs=3, batch=64).steps_for(130) == 9
    assert RetrainProtocol(epochs=3, batch=64, images=64).steps_for(130) == 3
    assert PRESETS["wang2024"].steps_for(4000) == 400
    assert PRESETS["haq"].steps_for(30_000) == 157


def test_learning_rates_follow_the_protocol():
    cosine = RetrainProtocol(steps=10, learning_rate=0.1)
    assert cosine.rate(0) == pytest.approx(0.1)
    assert cosine.rate(5) == pytest.approx(0.05)
    steps = RetrainProtocol(steps=10, learning_rate=0.1, decay=0.5, decay_times=2)
    assert [steps.rate(i) for i in (0, 4, 5, 9)] == pytest.approx([0.1, 0.1, 0.05, 0.05])


def test_another_networks_checkpoint_is_refused_and_a_missing_folder_is_made(samples, tmp_path, make_network):
    file, plan = tmp_path / "runs" / "run.pt", RetrainProtocol(steps=5)
    first = retrain_module(make_network(), Policy(LOW), Samples(*samples), plan, checkpoint=str(file))
    with pytest.raises(DataError, match="another network"):
        retrain_module(first, Policy(LOW), Samples(*samples), plan, checkpoint=file)
    with pytest.raises(DataError, match="another network"):
        retrain_module(make_network(), Policy(LOW), Samples(samples[0], samples[1][::-1]), plan, checkpoint=file)


def test_labels_are_integers_of_any_kind_or_probabilities(samples, network_at):
    images, labels = samples[0][:64].astype(np.float64), samples[1][:64]
    plan, whole = RetrainProtocol(steps=2), network_at()
    wanted = retrain_network(whole, *(x[:64] for x in samples), plan)
    for given in (labels.astype(np.int32), labels.tolist(), np.eye(int(labels.max()) + 1)[labels]):
        assert retrain_network(network_at(), images, given, plan) == pytest.approx(wanted, rel=1e-5)


def test_labels_that_do_not_fit_are_refused(samples, network_at):
    for labels in (samples[1] + 50, samples[1][:, None], samples[1].astype(np.float32), samples[1].astype(str)):
        with pytest.raises(DataError, match="labels"):
            retrain_network(network_at(), samples[0], labels, RetrainProtocol(steps=2))


def test_patience_needs_something_to_validate_with(samples, network_at, make_network):
    with pytest.raises(QirError, match="patience"):
        retrain_network(network_at(), *samples, RetrainProtocol(steps=2, patience=1))
    with pytest.raises(QirError, match="device"):
        TorchModule(make_network(), device="nothing")


def test_nonsense_is_refused(samples, network_at):
    with pytest.raises(QirError, match="unknown"):
        protocol("nothing")
    with pytest.raises(QirError, match="learning rate"):
        RetrainProtocol(learning_rate=0)
    with pytest.raises(DataError, match="images"):
        retrain_network(network_at(), samples[0], samples[1][:3], RetrainProtocol())
    with pytest.raises(DataError, match="lower the learning rate"):
        retrain_network(network_at(), samples[0] * np.float32("nan"), samples[1], RetrainProtocol(steps=2))
