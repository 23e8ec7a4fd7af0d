"""Sensitivity metrics against values worked out by hand on a network of one linear layer."""

import numpy as np
import onnx
import pytest
import torch
from onnx import helper, numpy_helper

import qir
from qir.backends import load_target
from qir.backends.torch.module import TorchModule
from qir.errors import DataError, SearchError
from qir.fake_quant import quantizers
from qir.search import output_divergence, prepare
from qir.search.metrics.feature_separability import feature_separability, separability
from qir.search.metrics.gradients.gauss_newton import gauss_newton
from qir.search.metrics.gradients.hessian_trace import hessian_trace
from qir.search.metrics.gradients.loss_changes import empirical_fisher, second_order, taylor
from qir.search.metrics.operands import rounded_to_grid
from qir.search.metrics.outputs.adversarial_noise import adversarial_noise
from qir.search.metrics.outputs.output_error import output_error
from qir.search.metrics.pca_significance import pca_significance, significant_dimensions
from qir.search.metrics.quantization_error import noise_to_signal, quantization_error
from qir.search.metrics.rate_distortion import envelope, rate_distortion_slope

pytestmark = pytest.mark.named_nodes

RNG = np.random.default_rng(3)
WEIGHT = RNG.standard_normal((3, 4)).astype(np.float32)
IMAGES = RNG.standard_normal((6, 4)).astype(np.float32)
LABELS = np.array([0, 1, 2, 0, 1, 2])


@pytest.fixture(scope="module")
def linear():
    """Logits = images @ WEIGHT.T; the network, its constraints, and [(quantizer, bits) → Δ] worked out in numpy."""
    node = helper.make_node("Gemm", ["x", "w"], ["y"], name="fc", transB=1)
    x = helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, ["N", 4])
    y = helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, ["N", 3])
    graph = helper.make_graph([node], "g", [x], [y], [numpy_helper.from_array(WEIGHT, "w")])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    module = qir.load(model.SerializeToString())
    constraints = prepare(module, load_target("npu-148"), IMAGES, input_widths="all")
    changes = {}
    for name in ("fc.input", "fc.weight"):
        quantizer = quantizers(module.graph)[name]
        values = torch.from_numpy(WEIGHT if quantizer.source.is_constant else IMAGES)
        for bits in constraints.options[name]:
            changes[name, bits] = (rounded_to_grid(quantizer, values, bits) - values).numpy().astype(np.float64)
    return TorchModule(module), constraints, changes


def probabilities():
    raised = np.exp(IMAGES.astype(np.float64) @ WEIGHT.T.astype(np.float64))
    return raised / raised.sum(1, keepdims=True)


def gradients(name):
    """Per-sample gradients [N, …] of the cross-entropy by weight or input."""
    residual = probabilities() - np.eye(3)[LABELS]
    if name.endswith("weight"):
        return residual[:, :, None] * IMAGES[:, None, :]
    return residual @ WEIGHT


def assert_equal(found, expected):
    assert set(found.values) == set(expected)
    for key, value in expected.items():
        assert found.values[key] == pytest.approx(value, rel=1e-3, abs=1e-9), key


def test_quantization_error_is_the_mean_square_of_the_change(linear):
    network, constraints, changes = linear
    found = quantization_error(network, constraints, IMAGES)
    assert_equal(found, {key: (change**2).mean() for key, change in changes.items()})
    assert found.forward_passes == 1


def test_noise_to_signal_divides_by_the_power(linear):
    network, constraints, changes = linear
    power = {True: (WEIGHT**2).mean(), False: (IMAGES**2).mean()}
    expected = {key: (change**2).mean() / power[key[0].endswith("weight")] for key, change in changes.items()}
    assert_equal(noise_to_signal(network, constraints, IMAGES), expected)


def test_output_error_turns_one_quantizer_on(linear):
    network, constraints, changes = linear
    found = output_error(network, constraints, IMAGES)
    expected = {
        key: ((IMAGES @ change.T if key[0].endswith("weight") else change @ WEIGHT.T) ** 2).mean()
        for key, change in changes.items()
    }
    assert_equal(found, expected)
    assert found.forward_passes == 1 + len(changes)


def test_hessian_trace_agrees_with_the_closed_form(linear):
    network, constraints, changes = linear
    found = hessian_trace(network, constraints, IMAGES, labels=LABELS, iterations=1500, tolerance=0.0)
    p = probabilities()
    curvature = np.stack([np.diag(row) - np.outer(row, row) for row in p])
    traces = {
        True: (np.trace(curvature, axis1=1, axis2=2) * (IMAGES**2).sum(1)).mean(),
        False: np.trace(WEIGHT.T @ curvature @ WEIGHT, axis1=1, axis2=2).mean(),
    }
    for (name, bits), value in found.values.items():
        change = changes[name, bits]
        weight = name.endswith("weight")
        elements = change.size if weight else change[0].size
        square = (change**2).sum() if weight else (change**2).sum(1).mean()
        assert value == pytest.approx(traces[weight] / elements * square, rel=0.1)
    assert (found.forward_passes, found.backward_passes) == (2, 1 + 2 * 1500)


def test_hessian_trace_stops_when_the_mean_settles(linear):
    network, constraints, _ = linear
    found = hessian_trace(network, constraints, IMAGES, iterations=100, tolerance=1.0)
    assert found.backward_passes == 1 + 2 * 10
    assert found.forward_passes == 3
    with pytest.raises(SearchError, match="iterations"):
        hessian_trace(network, constraints, IMAGES, iterations=0)


def test_empirical_fisher_sums_squared_products(linear):
    network, constraints, changes = linear
    found = empirical_fisher(network, constraints, IMAGES, labels=LABELS)
    expected = {
        key: np.mean([(g**2 * d**2).sum() for g, d in zip(gradients(key[0]), spread(key, change), strict=True)]) / 2
        for key, change in changes.items()
    }
    assert_equal(found, expected)
    assert (found.forward_passes, found.backward_passes) == (len(IMAGES), len(IMAGES))


def test_taylor_is_the_mean_size_of_gradient_times_error(linear):
    network, constraints, changes = linear
    found = taylor(network, constraints, IMAGES, labels=LABELS)
    expected = {
        key: np.mean([abs((g * d).sum()) for g, d in zip(gradients(key[0]), spread(key, change), strict=True)])
        for key, change in changes.items()
    }
    assert_equal(found, expected)


def test_gauss_newton_agrees_with_the_closed_form(linear):
    network, constraints, changes = linear
    found = gauss_newton(network, constraints, IMAGES, probes=100)
    for (name, bits), change in changes.items():
        moved = IMAGES @ change.T if name.endswith("weight") else change @ WEIGHT.T
        curvature = [np.diag(p) - np.outer(p, p) for p in probabilities()]
        expected = np.mean([d @ h @ d for d, h in zip(moved, curvature, strict=True)]) / 2
        assert found.values[name, bits] == pytest.approx(expected, rel=0.25)
    assert (found.forward_passes, found.backward_passes) == (len(IMAGES), 100 * len(IMAGES))


def test_metrics_of_gradients_share_one_pass_over_a_sample(linear):
    network, constraints, _ = linear
    for metric in (taylor, empirical_fisher, second_order):
        found = metric(network, constraints, IMAGES)
        assert (found.forward_passes, found.backward_passes) == (len(IMAGES), len(IMAGES))


def test_second_order_squares_the_projected_gradient(linear):
    network, constraints, changes = linear
    found = second_order(network, constraints, IMAGES, labels=LABELS)
    expected = {
        key: np.mean([(g * d).sum() ** 2 for g, d in zip(gradients(key[0]), spread(key, change), strict=True)]) / 2
        for key, change in changes.items()
    }
    assert_equal(found, expected)


def test_adversarial_noise_scales_output_error_by_quantizer(linear):
    network, constraints, changes = linear
    found, plain = adversarial_noise(network, constraints, IMAGES), output_error(network, constraints, IMAGES)
    for name in ("fc.input", "fc.weight"):
        shares = [found.values[name, bits] / plain.values[name, bits] for bits in constraints.options[name]]
        assert min(shares) > 0
        assert shares == pytest.approx([shares[0]] * len(shares), rel=1e-4)
    assert found.forward_passes == 2 + 10 * 2 + len(changes)
    with pytest.raises(SearchError, match="drop"):
        adversarial_noise(network, constraints, IMAGES, drop=1.5)


def spread(key, change):
    return [change] * len(IMAGES) if key[0].endswith("weight") else change


def test_feature_separability_prices_widths_by_what_is_not_apart(linear):
    network, constraints, _ = linear
    logits = IMAGES @ WEIGHT.T
    apart = separability(torch.from_numpy(logits), torch.from_numpy(LABELS))
    ratios = noise_to_signal(network, constraints, IMAGES).values
    found = feature_separability(network, constraints, IMAGES, labels=LABELS)
    assert_equal(found, {key: (1 - apart) * ratio for key, ratio in ratios.items()})
    assert found.forward_passes == 2


def test_separability_of_mixed_and_of_distant_classes():
    labels = torch.tensor([0, 0, 1, 1])
    assert separability(torch.tensor([[0.0], [1.0], [0.0], [1.0]]), labels) == 0.0
    near_one = separability(torch.tensor([[0.0], [1.0], [100.0], [101.0]]), labels)
    assert near_one == pytest.approx(1 - 1 / 1e4, abs=1e-4)
    assert separability(torch.rand(3, 2), torch.tensor([0, 1, 2])) == 0.0


def test_pca_significance_is_the_rise_of_significant_dimensions(linear):
    network, constraints, _ = linear
    before = network.policy
    found = pca_significance(network, constraints, IMAGES)
    assert network.policy == before
    ratios = noise_to_signal(network, constraints, IMAGES).values
    prices = {found.values[key] / ratio for key, ratio in ratios.items() if ratio > 0}
    assert max(prices) == pytest.approx(min(prices))
    assert found.forward_passes == 2


@pytest.mark.parametrize("shape", [(50, 4), (10, 4, 5, 1)])
def test_significant_dimensions_are_the_rank_of_what_varies(shape):
    generator = torch.Generator().manual_seed(0)
    basis = torch.rand((shape[0], 2, *shape[2:]), generator=generator)
    mixed = torch.einsum("oc,nc...->no...", torch.rand((4, 2), generator=generator), basis) + 7
    assert significant_dimensions(mixed, 0.999999) == 2
    assert significant_dimensions(torch.ones(shape), 0.99) == 0
    assert significant_dimensions(torch.diag(torch.tensor([100.0, 1.0, 1.0])), 0.9) == 1


def test_variance_must_be_a_share(linear):
    network, constraints, _ = linear
    with pytest.raises(SearchError, match="variance 1"):
        pca_significance(network, constraints, IMAGES, variance=1)


@pytest.mark.parametrize(
    ("errors", "expected"),
    [
        ([8, 4, 2, 1], [8, 4, 2, 1]),
        ([8, 7, 2, 1], [8, 5, 2, 1]),
        ([8, 9, 2, 3], [8, 5, 2, 2]),
        ([1, 1, 1, 1], [1, 1, 1, 1]),
    ],
)
def test_envelope_is_convex_below_the_errors_and_never_rises(errors, expected):
    assert envelope([1, 2, 3, 4], errors) == pytest.approx(expected)


def test_rate_distortion_is_the_envelope_of_the_output_error(linear):
    network, constraints, _ = linear
    found = rate_distortion_slope(network, constraints, IMAGES)
    measured = output_error(network, constraints, IMAGES)
    assert found.forward_passes == measured.forward_passes
    for name in ("fc.input", "fc.weight"):
        widths = sorted(constraints.options[name])
        expected = envelope(widths, [measured.values[name, bits] for bits in widths])
        assert [found.values[name, bits] for bits in widths] == pytest.approx(expected)


def test_output_divergence_counts_a_follower_with_its_decision(linear):
    network, constraints, _ = linear
    found = output_divergence(network, constraints, IMAGES, correct=False)
    (decision,) = constraints.decisions
    row = [found.values[decision, bits] for bits in constraints.options[decision]]
    assert found.per_decision(constraints) == [row]
    assert row[0] > row[-1] >= 0
    assert found.forward_passes == 1 + len(row)


@pytest.mark.parametrize("metric", [quantization_error, output_error, hessian_trace, taylor, gauss_newton])
def test_no_images_are_refused(linear, metric):
    network, constraints, _ = linear
    with pytest.raises(DataError, match="images"):
        metric(network, constraints, IMAGES[:0])


def test_labels_must_match_the_images(linear):
    network, constraints, _ = linear
    with pytest.raises(DataError, match="6 images but 2 labels"):
        second_order(network, constraints, IMAGES, labels=LABELS[:2])
