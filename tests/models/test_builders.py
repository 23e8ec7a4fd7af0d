"""Networks of the papers: shapes as published, exported with BatchNorm kept, the same bytes each time."""

import math
from collections import Counter

import numpy as np
import onnx
import onnxruntime
import pytest
import torch

import qir
from qir.backends.torch.module import TorchModule
from qir.errors import DataError
from qir.models.builders import NETWORKS, build, export_onnx
from qir.models.exporting import export_network
from qir.passes import run_passes
from qir.passes.simplify.canonicalize import SIMPLIFY

WEIGHTS = {
    "lenet": 430_500,
    "lenet-5": 61_470,
    "residual": 77_360,
    "resnet-20": 270_896,
    "resnet-50": 25_502_912,
    "mobilenet-v2": 3_469_760,
    "alexnet": 61_090_496,
}
NORMS = {"lenet": 3, "lenet-plain": 0, "resnet-20": 21, "resnet-50": 53, "mobilenet-v1": 27, "mobilenet-v2": 52}
LAYERS = {
    "simplenet-5": 5,
    "svhn-10": 10,
    "alexnet": 8,
    "mobilenet-v1": 28,
    "resnet-18": 21,
    "resnet-20": 22,
    "residual": 10,
    "vgg-11": 9,
}
SMALL = {"vgg-11": {"width": 0.25}, "vgg-like": {"width": 0.25}, "svhn-10": {"width": 0.25}, "lstm-text": {"units": 32}}
FAST = [name for name in NETWORKS if name not in ("alexnet", "resnet-18", "resnet-50", "mobilenet-v1", "mobilenet-v2")]


@pytest.mark.parametrize("name", WEIGHTS)
def test_number_of_weights_is_as_published(name):
    with torch.device("meta"):
        network = build(name)
    assert sum(p.numel() for p in network.parameters() if p.ndim > 1) == WEIGHTS[name]


@pytest.mark.parametrize("name", NORMS)
def test_number_of_batch_norms(name):
    with torch.device("meta"):
        kinds = Counter(type(module).__name__ for module in build(name).modules())
    assert kinds["BatchNorm2d"] + kinds["BatchNorm1d"] == NORMS[name]


@pytest.mark.parametrize("name", LAYERS)
def test_number_of_layers(name):
    with torch.device("meta"):
        kinds = Counter(type(module).__name__ for module in build(name).modules())
    assert kinds["Conv2d"] + kinds["Linear"] == LAYERS[name]


def test_vgg_like_gives_the_average_bits_of_the_paper():
    network = build("vgg-like")
    layers = [m for m in network if isinstance(m, (torch.nn.Conv2d, torch.nn.Linear))][:7]
    weights = [layer.weight.numel() for layer in layers]
    outputs = []
    for layer in layers:
        layer.register_forward_hook(lambda module, given, result: outputs.append(result.numel()))
    network.eval()(torch.zeros(1, 3, 32, 32))
    assert round(np.average([7, 8, 6, 6, 7, 5, 2], weights=weights), 2) == 2.82
    assert round(np.average([2, 3, 3, 4, 5, 4, 6], weights=outputs), 2) == 3.08


def given_to(name, batch):
    """Random input of a network."""
    entry, generator = NETWORKS[name], np.random.default_rng(0)
    if entry.takes_tokens:
        return generator.integers(0, 5000, (batch, *entry.input_shape))
    return generator.random((batch, *entry.input_shape), np.float32)


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[] if name in FAST else pytest.mark.slow) for name in NETWORKS]
)
def test_every_network_loads_in_qir_and_computes_what_onnx_runtime_does(name, tmp_path):
    file = export_onnx(name, tmp_path / "a.onnx", **SMALL.get(name, {}))
    module, given = qir.load(file), given_to(name, 1)
    qir.verify(module)
    (expected,) = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"]).run(None, {"input": given})
    with torch.no_grad():
        (found,) = TorchModule(module)(torch.from_numpy(given))
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-3, atol=1e-4 * np.abs(expected).max())
    run_passes(module, f"{SIMPLIFY},insert-fake-quant")
    assert sum(1 for _ in module.graph.fake_quants()) >= 2


@pytest.mark.parametrize("name", FAST)
def test_exported_network_runs_in_onnx_runtime_at_another_batch(name, tmp_path):
    options = SMALL.get(name, {})
    file = export_onnx(name, tmp_path / "a.onnx", seed=3, **options)
    onnx.checker.check_model(onnx.load(file), full_check=True)
    session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
    (logits,) = session.run(None, {"input": given_to(name, 2)})
    assert logits.shape == (2, 10)
    assert np.isfinite(logits).all()
    assert not np.array_equal(logits[0], logits[1])


@pytest.mark.parametrize("name", ["lenet", "resnet-20"])
def test_export_is_deterministic_and_follows_the_seed(name, tmp_path):
    first = export_onnx(name, tmp_path / "a.onnx").read_bytes()
    assert export_onnx(name, tmp_path / "b.onnx").read_bytes() == first
    assert export_onnx(name, tmp_path / "c.onnx", seed=1).read_bytes() != first
    assert sorted(file.name for file in tmp_path.iterdir()) == ["a.onnx", "b.onnx", "c.onnx"]


def test_mobilenet_v2_keeps_batch_norm_and_constants(tmp_path):
    model = onnx.load(export_onnx("mobilenet-v2", tmp_path / "a.onnx", width=0.35, input_shape=(1, 3, 64, 64)))
    kinds = Counter(node.op_type for node in model.graph.node)
    assert (kinds["Conv"], kinds["BatchNormalization"], kinds["Constant"], kinds["Add"]) == (52, 52, 70, 10)
    norms = [node for node in model.graph.node if node.op_type == "BatchNormalization"]
    assert not any(attribute.i for node in norms for attribute in node.attribute if attribute.name == "training_mode")


def test_initial_batch_norm_makes_identity_aliases(tmp_path):
    aliased = onnx.load(export_onnx("resnet-20", tmp_path / "a.onnx", random_batch_norm=False))
    drawn = onnx.load(export_onnx("resnet-20", tmp_path / "b.onnx"))
    assert any(node.op_type == "Identity" for node in aliased.graph.node)
    assert not any(node.op_type == "Identity" for node in drawn.graph.node)


def test_channels_follow_the_input_shape(tmp_path):
    model = onnx.load(export_onnx("resnet-20", tmp_path / "a.onnx", input_shape=(1, 1, 28, 28)))
    assert sum(math.prod(tensor.dims) for tensor in model.graph.initializer if len(tensor.dims) > 1) == 270_608


def test_building_leaves_the_random_state_alone():
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    build("lenet")
    assert torch.equal(torch.rand(1), expected)


def test_bad_requests_are_data_errors(tmp_path):
    with pytest.raises(DataError, match="mobilenet-v2"):
        build("mobilenet-v9")
    with pytest.raises(DataError, match="clases"):
        build("lenet", clases=3)
    with pytest.raises(DataError, match=r"\[1, 1, 8, 8\]"):
        export_onnx("lenet", tmp_path / "a.onnx", input_shape=(1, 1, 8, 8))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", [name for name in FAST if name != "lstm-text"])
def test_exported_network_computes_what_pytorch_computes(name, tmp_path):
    network = build(name, seed=2, **SMALL.get(name, {})).eval()
    images = torch.rand((3, *NETWORKS[name].input_shape), generator=torch.Generator().manual_seed(0))
    export_network(network, images[:1], tmp_path / "a.onnx")
    session = onnxruntime.InferenceSession(tmp_path / "a.onnx", providers=["CPUExecutionProvider"])
    (logits,) = session.run(None, {"input": images.numpy()})
    with torch.no_grad():
        np.testing.assert_allclose(logits, network(images).numpy(), rtol=1e-4, atol=1e-5)
