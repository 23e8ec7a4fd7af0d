"""AdaRound: learned rounding stays on the levels around each weight, and helps."""

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

import qir
from qir import quantize
from qir.backends.torch.module import TorchModule
from qir.backends.torch.ops import lowering_of
from qir.backends.training.adaptive_rounding import (
    RoundingProblem,
    RoundingProtocol,
    input_rows,
    inverse_rectified_sigmoid,
    learn_rounding,
    output_rows,
    rectified_sigmoid,
)
from qir.cli.main import make_app
from qir.errors import PassError, QirError
from qir.fake_quant import FakeQuant, quantizers
from qir.graph import Node
from qir.models import fashion_mnist, path
from qir.passes import PassContext, PassManager, apply_policy, parse_pipeline, run_passes
from qir.passes.correction.adaround import AdaRound, codes_around
from qir.quantizers import get_scheme

FAST = AdaRound(iterations=60, images=32)
WEIGHTS = ("conv1.weight", "conv2.weight", "fc.weight")


def weights_of(module):
    return {name: quantizers(module.graph)[name].source.constant.numpy() for name in WEIGHTS}


def at(module, bits, scheme="uniform"):
    """The network with weights of a scheme fitted to them, at a width."""
    for name in WEIGHTS:
        node = quantizers(module.graph)[name]
        node.set_scheme(scheme)
        node.calibration = None
        node.widths = (bits,)
        node.bits = bits
        fitted = get_scheme(scheme)
        weight, axis = node.source.constant.numpy(), node.granularity.axis
        node.calibration = fitted.fit(weight, bits, True, False, axis)[None]
        if fitted.stores_levels:
            node.set_levels(bits, fitted.fit_parameters(weight, bits, True, False, axis).levels)
    return module


def run(module, images, step=FAST, seed=0, reports=None):
    PassManager([step]).run(module, PassContext(calibration_data=images, seed=seed, reports=reports))
    return module


@pytest.mark.parametrize(
    ("scheme", "bits"),
    [("uniform", 2), ("uniform", 4), ("clipq", 3), ("potq", 3), ("additive-power-of-two", 3), ("kmeans", 2)],
)
def test_every_weight_goes_to_a_level_next_to_it(samples, make_network, scheme, bits):
    module = at(make_network(), bits, scheme)
    before = weights_of(module)
    around = {name: codes_around(quantizers(module.graph)[name], before[name]) for name in WEIGHTS}
    left = {}
    run(module, samples[0], reports=left)
    for name, weight in weights_of(module).items():
        lower, upper = around[name]
        assert ((weight == lower) | (weight == upper)).all()
        node = quantizers(module.graph)[name]
        found = get_scheme(scheme).fake_quantize(weight, node.grid(), node.granularity.axis)
        np.testing.assert_array_equal(found, weight)
    assert left["adaround"] == {}
    qir.verify(module)


@pytest.mark.parametrize("bits", [2, 3, 4])
def test_codes_differ_from_the_floor_by_at_most_one(samples, make_network, bits):
    module = at(make_network(), bits)
    floors = {}
    for name, weight in weights_of(module).items():
        scale = quantizers(module.graph)[name].grid().scale.reshape(-1, *[1] * (weight.ndim - 1))
        floors[name] = np.floor(weight.astype(np.float64) / scale), scale
    run(module, samples[0])
    for name, weight in weights_of(module).items():
        floor, scale = floors[name]
        assert set(np.unique(np.rint(weight / scale) - floor)) <= {0, 1}


def test_the_output_comes_nearer_to_the_float_network(samples, make_network):
    images = torch.from_numpy(samples[0])

    def error(module):
        network = TorchModule(module)
        (quantized,) = network(images)
        with network.quantizers_off():
            (exact,) = reference(images)
        return float((quantized - exact).square().mean())

    reference = TorchModule(make_network(quantized=False))
    nearest, learned = at(make_network(), 3), run(at(make_network(), 3), samples[0], AdaRound(iterations=300))
    assert error(learned) < 0.5 * error(nearest)


def test_the_same_seed_gives_the_same_weights(samples, make_network):
    one, two = (weights_of(run(at(make_network(), 2), samples[0], seed=3)) for _ in range(2))
    assert all(np.array_equal(one[name], two[name]) for name in WEIGHTS)


def test_layers_that_cannot_be_rounded_are_left_with_a_reason(samples, make_network):
    module = make_network()
    apply_policy(module, {"conv2.weight": (2, 4, 8, 0, 2, 4, 8, 8)})
    before = weights_of(module)
    quantizers(module.graph)["fc.weight"].set_scheme("dorefa")
    left = {}
    run(module, samples[0], reports=left)
    assert set(left["adaround"]) == {"conv2", "fc"}
    assert "width per channel" in left["adaround"]["conv2"]
    assert "dorefa" in left["adaround"]["fc"]
    assert np.array_equal(weights_of(module)["conv2.weight"], before["conv2.weight"])
    assert not np.array_equal(weights_of(module)["conv1.weight"], before["conv1.weight"])


def test_layers_with_blocks_of_scales_are_rounded_too(samples):
    module, images = qir.load(path("residual")), fashion_mnist("calibration").images[:16]
    steps = "fold-constants,fold-batchnorm,insert-fake-quant{block=4,weight_widths=3,activation_widths=8},calibrate"
    run_passes(module, steps, data=images)
    blocked = [node for node in module.graph.fake_quants() if FakeQuant(node).granularity.size is not None]
    before = [node.operands[0].constant.digest() for node in blocked]
    left = {}
    run(module, images, reports=left)
    assert blocked
    assert not left["adaround"]
    assert all(node.operands[0].constant.digest() != old for node, old in zip(blocked, before, strict=True))


def test_a_pipeline_text_names_it_and_progress_is_told(samples, make_network):
    told, module = [], at(make_network(), 3)
    step = parse_pipeline("adaround{iterations=3,images=16}")
    PassManager(step).run(module, PassContext(calibration_data=samples[0], progress=told.append))
    assert told == [f"adaround: {name}, layer {i} of 3" for i, name in enumerate(("conv1", "conv2", "fc"), 1)]
    assert not any(FakeQuant(node).is_stale for node in module.graph.fake_quants())


def test_networks_without_quantizers_and_nonsense_are_refused(samples, make_network):
    with pytest.raises(PassError, match="insert-fake-quant"):
        run(make_network(quantized=False), samples[0])
    with pytest.raises(PassError, match="calibration_data"):
        run(make_network(), None)
    with pytest.raises(QirError, match="iterations"):
        RoundingProtocol(iterations=-1)


@settings(max_examples=40, deadline=None)
@given(
    st.sampled_from([("uniform", 2), ("uniform", 8), ("zoomq", 3), ("potq", 4), ("power-of-two", 3)]),
    st.sampled_from([None, 0, 1]),
    st.integers(0, 1000),
)
def test_neighbours_enclose_each_weight(scheme, axis, seed):
    (name, bits), generator = scheme, np.random.default_rng(seed)
    weight = generator.normal(size=(3, 4, 2)).astype(np.float32)
    attributes = {"bits": bits, "signed": 1, "narrow": 0, "scheme": name, "widths": (bits,)}
    node = Node("fake_quant", (), domain="qir", attributes=attributes | ({} if axis is None else {"axis": axis}))
    fitted = get_scheme(name).fit(weight, bits, True, False, axis) * np.float32(0.8)
    FakeQuant(node).calibration = fitted[None]
    lower, upper = codes_around(FakeQuant(node), weight)
    grid = FakeQuant(node).scheme(bits).grid(FakeQuant(node).grid())
    rows = [np.moveaxis(part, axis or 0, 0).reshape(len(grid), -1) for part in (lower, weight, upper)]
    for low, value, high, levels in zip(*rows, grid, strict=True):
        inside = (value >= levels[0]) & (value < levels[-1])
        assert (low[inside] <= value[inside]).all()
        assert (value[inside] < high[inside]).all()
        assert (low[~inside] == high[~inside]).all()
        assert (np.searchsorted(levels, high[inside]) - np.searchsorted(levels, low[inside]) == 1).all()


def test_blocks_of_scales_have_neighbours_of_their_own():
    weight = np.random.default_rng(0).normal(size=(6, 8)).astype(np.float32) * np.linspace(0.1, 3, 8, dtype=np.float32)
    attributes = {"bits": 3, "signed": 1, "narrow": 0, "scheme": "uniform", "widths": (3,), "axis": 1, "block": 4}
    node = Node("fake_quant", (), domain="qir", attributes=attributes)
    rows, _ = FakeQuant(node).granularity.rows(weight)
    FakeQuant(node).calibration = get_scheme("uniform").fit(rows, 3, True, False, 0)[None]
    lower, upper = codes_around(FakeQuant(node), weight)
    scale = FakeQuant(node).granularity.restored(
        np.repeat(FakeQuant(node).grid().scale[:, None], rows.shape[1], 1), weight.shape
    )
    inside, codes = upper != lower, lower / scale
    np.testing.assert_allclose(codes, np.rint(codes), atol=1e-4)
    np.testing.assert_allclose(((upper - lower) / scale)[inside], 1, rtol=1e-4)
    share = ((weight - lower) / scale)[inside]
    assert share.min() > -1e-4
    assert share.max() < 1 + 1e-4
    assert inside.mean() > 0.7


def test_few_weights_are_rounded_nearly_as_well_as_by_trying_everything():
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn((1, 1, 8), generator=generator)
    lower = weight.floor()
    inputs = torch.rand((1, 8, 200), generator=generator)
    problem = RoundingProblem(
        weight, lower, lower + 1, inputs, weight @ inputs, torch.zeros(1, 1, 1), activation=lambda x: x
    )
    choices = (lower + torch.tensor(choice) for choice in itertools.product((0.0, 1.0), repeat=8))
    best = min(float(problem.error(choice)) for choice in choices)
    nearest = float(problem.error(weight.round()))
    found = float(problem.error(learn_rounding(problem, RoundingProtocol(iterations=600))))
    assert found < 0.25 * nearest
    assert found <= 3 * best


def test_the_rectified_sigmoid_reaches_its_ends_and_has_an_inverse():
    share = torch.linspace(0, 1, 11)
    torch.testing.assert_close(rectified_sigmoid(inverse_rectified_sigmoid(share)), share)
    assert rectified_sigmoid(torch.tensor([-9.0, 9.0])).tolist() == [0.0, 1.0]
    plan = RoundingProtocol(iterations=100)
    assert plan.beta(20) == pytest.approx(20.0)
    assert plan.beta(100) == pytest.approx(2.0)


@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize(
    ("kernel", "attributes"),
    [
        ((3, 2), {}),
        ((3, 2), {"pads": (1, 0, 2, 1), "strides": (2, 1)}),
        ((3, 2), {"dilations": (1, 2)}),
        ((3,), {"pads": (2, 1), "strides": (2,)}),
        ((2, 1, 3), {"pads": (0, 1, 2, 1, 0, 1), "dilations": (1, 1, 2)}),
    ],
)
def test_rows_times_weight_are_the_convolution(groups, kernel, attributes):
    generator = torch.Generator().manual_seed(0)
    data = torch.randn((3, 4, *(9, 8, 7)[: len(kernel)]), generator=generator)
    weight = torch.randn((6, 4 // groups, *kernel), generator=generator)
    node = Node("Conv", (), attributes=attributes | {"group": groups})
    expected = output_rows(lowering_of(node)(node, [data, weight]), kernel)
    rows = input_rows(node, data, kernel)
    found = weight.reshape(groups, 6 // groups, -1) @ rows
    torch.testing.assert_close(found.reshape(6, -1).T, expected, rtol=1e-4, atol=1e-4)


def test_the_shell_rounds_too(tmp_path):
    np.save(tmp_path / "images.npy", fashion_mnist("calibration").images[:32])
    widths = "weight_widths=3,activation_widths=8"
    steps = f"fold-constants,fold-batchnorm,insert-fake-quant{{{widths}}},calibrate{{weights=mse}}"
    texts = []
    for more in ("", ",adaround{iterations=2,images=16}"):
        command = ["opt", str(path("residual")), "-d", str(tmp_path / "images.npy"), "-p", steps + more]
        done = CliRunner().invoke(make_app(), [*command, "-o", str(tmp_path / "made.qir")])
        assert done.exit_code == 0, done.output
        texts.append(qir.parse((tmp_path / "made.qir").read_text()))
    nearest, learned = ({v.name: v.constant.numpy() for v in m.graph.constants} for m in texts)
    changed = [name for name in nearest if not np.array_equal(nearest[name], learned[name])]
    assert len(changed) == 10
    assert all(len(np.unique(channel)) <= 7 for name in changed for channel in learned[name])


def test_quantize_can_learn_rounding(tmp_path, monkeypatch):
    images, rounded = fashion_mnist("calibration").images[:32], []
    monkeypatch.setattr(AdaRound, "run", lambda self, module, context: bool(rounded.append(self.name)))
    quantize(path("residual"), target="npu-148", data=images, output=tmp_path / "q.onnx", adaround=True, correct=False)
    assert rounded == ["adaround"]
