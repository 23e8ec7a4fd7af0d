"""What bits are chosen by costs little on networks of any kind, ends on time, and tells how far it is."""

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

import qir
import qir.models
from qir.backends import load_target
from qir.backends.execution.interpreter import Interpreter
from qir.cli.options import parse_time
from qir.errors import QirError, SearchError
from qir.search import Job, Splits, load_network, prepare
from qir.search.evaluation.reuse import ReusingNetwork
from qir.search.metrics import label_free
from qir.search.metrics.label_free import outputs_sensitivity
from qir.search.metrics.measuring import measure
from qir.search.metrics.operands import measured_quantizers, rounded_to_grid, whole_batches
from qir.search.metrics.outputs.output_distance import output_distance
from qir.support.progress import Step, advance, stage, told

RANDOM = np.random.default_rng(5)
FIRST, SECOND = (RANDOM.standard_normal(shape).astype(np.float32) for shape in ((4, 6), (6, 3)))
FEEDS = {name: RANDOM.standard_normal((5, 2, n)).astype(np.float32) for name, n in (("x", 4), ("gate", 6))}
BUDGET = {"size": "0.6x"}


def two_inputs(activation="Relu", domain=""):
    """((x · FIRST) * gate) · SECOND, with something between that may have no lowering in torch."""
    nodes = [
        helper.make_node("MatMul", ["x", "first"], ["a"], name="first"),
        helper.make_node(activation, ["a"], ["b"], name="between", domain=domain),
        helper.make_node("Mul", ["b", "gate"], ["c"], name="gated"),
        helper.make_node("MatMul", ["c", "second"], ["y"], name="second"),
    ]
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["N", 2, n]) for name, n in (("x", 4), ("gate", 6))],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", 2, 3])],
        [numpy_helper.from_array(FIRST, "first"), numpy_helper.from_array(SECOND, "second")],
    )
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("com.microsoft", 1)]
    return qir.load(helper.make_model(graph, opset_imports=opsets, ir_version=8).SerializeToString())


def calibrated(module):
    return module, prepare(module, load_target("npu-148"), FEEDS)


@pytest.mark.named_nodes
def test_curvature_is_measured_on_networks_with_several_inputs():
    module, constraints = calibrated(two_inputs())
    samples = [[FEEDS["x"][n : n + 1], FEEDS["gate"][n : n + 1]] for n in range(5)]
    found = measure("gauss-newton", module, constraints, samples, probes=100)
    network = ReusingNetwork(module)
    quantizer = measured_quantizers(network, constraints)["second.weight"]
    moved = []
    for x, gate in samples:
        hidden = np.maximum(x @ FIRST, 0) * gate
        change = rounded_to_grid(quantizer, whole_batches([[SECOND]])[0][0], 4).numpy() - SECOND
        moved.append(((hidden @ change) ** 2).sum() / ((hidden @ SECOND) ** 2).sum())
    assert found.values["second.weight", 4] == pytest.approx(np.mean(moved), rel=0.25)


def test_the_default_needs_one_backward_pass_a_sample():
    module, constraints = calibrated(two_inputs())
    found = outputs_sensitivity(module, constraints, FEEDS)
    assert found.metric == "gauss-newton"
    assert (found.forward_passes, found.backward_passes) == (5, 5)
    assert len(found.per_decision(constraints)) == len(constraints.decisions)


@pytest.mark.named_nodes
def test_without_gradients_the_default_is_one_partial_pass_for_each_width():
    module, constraints = calibrated(two_inputs("Gelu", "com.microsoft"))
    found = outputs_sensitivity(module, constraints, FEEDS)
    options = sum(len(constraints.options[name]) for name in constraints.decisions)
    assert (found.metric, found.forward_passes, found.backward_passes) == ("output-distance", 1 + options, 0)
    with pytest.raises(QirError, match="between"):
        outputs_sensitivity(module, constraints, FEEDS, metric="taylor")


def test_what_has_no_gradient_after_all_is_measured_forward(monkeypatch):
    module, constraints = calibrated(two_inputs())

    def refuse(*given, **options):
        raise RuntimeError("derivative is not implemented")

    monkeypatch.setattr("torch.autograd.grad", refuse)
    assert outputs_sensitivity(module, constraints, FEEDS).metric == "output-distance"
    with pytest.raises(SearchError, match="no gradient passes the network: derivative is not implemented"):
        outputs_sensitivity(module, constraints, FEEDS, metric="taylor")


@pytest.mark.named_nodes
def test_networks_with_several_inputs_compute_only_what_a_width_changes(monkeypatch):
    module, constraints = calibrated(two_inputs())
    network, computed = Interpreter(module), []
    kernel = Interpreter._fake_quantize

    def count(network, quantizer, x, bits):
        computed.append(quantizer.name)
        return kernel(network, quantizer, x, bits)

    monkeypatch.setattr(Interpreter, "_fake_quantize", count)
    batch = [[FEEDS["x"], FEEDS["gate"]]]
    found = output_distance(network, constraints, batch)
    own = [decision for decision, group in constraints.groups().items() if "first.input" in group]
    assert computed.count("first.input") == 1 + sum(len(constraints.options[decision]) for decision in own)
    assert len(computed) < found.forward_passes * len(module.graph.fake_quants())


def test_output_distance_is_the_noise_to_signal_ratio_of_the_outputs():
    module, constraints = calibrated(two_inputs())
    network = ReusingNetwork(module)
    (inputs,) = whole_batches([[FEEDS["x"], FEEDS["gate"]]])
    exact = float_operands_of(network, inputs)
    found = output_distance(Interpreter(module), constraints, [[FEEDS["x"], FEEDS["gate"]]])
    name = constraints.decisions[0]
    bits = constraints.options[name][0]
    group = {quantizer: widths[bits] for quantizer, widths in constraints.groups()[name].items()}
    with network.quantizers_off(but=group):
        moved = network(*inputs)[0].detach()
    assert found.values[name, bits] == pytest.approx(float(((moved - exact) ** 2).sum() / (exact**2).sum()), rel=1e-5)


def float_operands_of(network, inputs):
    with network.quantizers_off():
        return network(*inputs)[0].detach()


@pytest.fixture(scope="module")
def lenet():
    return qir.models.path("lenet"), qir.models.fashion_mnist("calibration").images[:24]


def test_the_exhaustive_measurement_is_the_divergence_after_correction(lenet):
    path, images = lenet
    module = load_network(path)
    constraints = prepare(module, load_target("npu-148"), images)
    found = outputs_sensitivity(module, constraints, images, metric="exhaustive")
    assert found == measure("output-divergence", module, constraints, images)


@pytest.mark.parametrize(("work", "samples"), [(32e9, 24), (1.0, 8)])
def test_long_networks_are_derived_on_fewer_samples(lenet, monkeypatch, work, samples):
    path, images = lenet
    module = load_network(path)
    constraints = prepare(module, load_target("npu-148"), images)
    monkeypatch.setattr(label_free, "GRADIENT_WORK", work)
    assert outputs_sensitivity(module, constraints, images).forward_passes == samples


def test_a_metric_of_another_name_is_refused_before_any_work(lenet):
    with pytest.raises(SearchError, match=r"sensitivity 'tailor' is unknown.*taylor"):
        Job(lenet[0], "npu-148", Splits.read(lenet[1]), metric="tailor")


@pytest.mark.parametrize("metric", ["auto", "output-distance", "exhaustive"])
def test_the_time_limit_is_named_by_result_and_certificate(lenet, metric, tmp_path):
    done = qir.quantize(
        lenet[0], target="npu-148", data=lenet[1], budgets=BUDGET, output=tmp_path, sensitivity=metric, time_limit=1e-3
    )
    assert done.result.status == "time-limit"
    assert "time-limit" in done.certificate
    assert "nothing was measured (time-limit): each bit counts as a quarter of the noise" in done.result.notes
    assert done.result.costs["size"] <= done.result.limits["size"]
    assert any(note.startswith("not measured: uniform 8") for note in done.notes)


def test_an_interruption_ends_with_the_best_so_far(lenet, tmp_path):
    def interrupt(step):
        if step.stage == "sensitivities" and step.total == 24 and step.done == 3:
            raise KeyboardInterrupt

    done = qir.quantize(
        lenet[0], target="npu-148", data=lenet[1], budgets=BUDGET, output=tmp_path, compare=False, stages=interrupt
    )
    assert done.certificate.startswith("interrupted")
    assert "sensitivities from 3 of 24 samples (interrupted)" in done.result.notes
    assert done.written.mismatches == 0


def test_an_interruption_leaves_out_the_comparison_and_keeps_the_result(lenet, tmp_path):
    seen = []

    def interrupt(step):
        seen.append(step.stage)
        if "comparison" in seen and step.stage == "export":
            raise KeyboardInterrupt

    done = qir.quantize(
        lenet[0], target="npu-148", data=lenet[1], budgets=BUDGET, output=tmp_path, correct=False, stages=interrupt
    )
    assert done.certificate.startswith("optimal")
    assert done.rows[-1].agreeing is not None
    assert "not measured: uniform 8, uniform 4, uniform 2/1 (interrupted)" in done.notes


def test_every_stage_tells_how_far_it_is(lenet, tmp_path):
    steps = []
    qir.quantize(
        lenet[0], target="npu-148", data=lenet[1], budgets=BUDGET, output=tmp_path, compare=False, stages=steps.append
    )
    stages = list(dict.fromkeys(step.stage for step in steps))
    assert stages == ["calibration", "sensitivities", "reading", "search", "correction", "export", "comparison"]
    for name in ("calibration", "sensitivities", "comparison"):
        last = [step for step in steps if step.stage == name][-1]
        assert (last.done, last.left) == (last.total, 0.0)


def test_time_left_is_that_of_the_rest_at_the_same_speed():
    assert Step("search", 3, 12, 6.0).left == 18.0
    assert Step("search", 0, 12, 6.0).left is None
    assert Step("search", 3, 0, 6.0).left is None


def test_an_inner_stage_goes_by_its_own_name():
    steps = []
    with told(steps.append), stage("outer"):
        with stage("inner"):
            advance(1, 2)
        advance(2, 2)
    assert [(step.stage, step.done) for step in steps] == [("outer", 0), ("inner", 0), ("inner", 1), ("outer", 2)]


@pytest.mark.parametrize(("text", "seconds"), [("90", 90), ("90s", 90), ("5m", 300), ("1.5h", 5400), (None, None)])
def test_times_are_read_with_their_units(text, seconds):
    assert parse_time(text) == seconds


@pytest.mark.parametrize("text", ["", "soon", "-5m", "0s", "5 m", "5d"])
def test_other_times_are_refused(text):
    with pytest.raises(QirError, match="90s, 5m or 1h"):
        parse_time(text)
