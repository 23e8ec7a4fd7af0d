"""FINN's own conversion takes the files of the profile `finn` wholly, and not what the profile refuses.

FINN lives in an environment of its own; QIR_FINN_PYTHON names its interpreter: `python -m venv E;
E/bin/pip install --no-deps finn-plus==1.6.1; E/bin/pip install qonnx==1.0.0 'onnx<1.23' onnxruntime 'rich<14' pyyaml
pydantic click jinja2 scipy torch`
(finn-plus is the fork of FINN that pip installs; its conversion takes more than that of FINN 0.10).
"""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

import qir
import qir.models
from qir.backends.qonnx.reference import QonnxReference
from qir.errors import QirError
from qir.passes import export, run_passes

PYTHON = os.environ.get("QIR_FINN_PYTHON")
RUNNER = Path(__file__).with_name("run_finn.py")
LAYERS = Path(__file__).with_name("run_finn_layers.py")
SYMMETRIC = ",symmetric-activations{everywhere=true}"

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(PYTHON is None, reason="QIR_FINN_PYTHON names no interpreter with finn-plus 1.6.1"),
]


def residual(pool: bool = False) -> qir.Module:
    """Two convolutions with a residual connection and a Gemm, after global pooling where asked."""
    random, constants = np.random.default_rng(0), []

    def given(name, *shape):
        constants.append(numpy_helper.from_array((random.normal(size=shape) / 2).astype(np.float32), name))
        return name

    pads = {"pads": [1] * 4}
    nodes = [
        helper.make_node("Conv", ["x", given("a.weight", 6, 3, 3, 3), given("a.bias", 6)], ["a"], name="a", **pads),
        helper.make_node("Relu", ["a"], ["ar"], name="ar"),
        helper.make_node("Conv", ["ar", given("b.weight", 6, 1, 3, 3)], ["b"], name="b", group=6, **pads),
        helper.make_node("Add", ["b", "ar"], ["s"], name="s"),
        helper.make_node("Relu", ["s"], ["sr"], name="sr"),
        helper.make_node("GlobalAveragePool" if pool else "Identity", ["sr"], ["p"], name="p"),
        helper.make_node("Flatten", ["p"], ["f"], name="f"),
        helper.make_node("Gemm", ["f", given("fc.weight", 5, 6 if pool else 384)], ["y"], name="fc", transB=1),
    ]
    infos = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)
        for name, shape in (("x", [4, 3, 8, 8]), ("y", [4, 5]))
    ]
    graph = helper.make_graph(nodes, "residual", infos[:1], infos[1:], constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    return qir.load(model.SerializeToString())


def prepared(module, images, bits, further):
    name = module.graph.inputs[0].name
    shape = "x".join(map(str, (4, *images.shape[1:])))
    text = (
        f"fold-batchnorm,freeze-inputs{{shapes=[{name}:{shape}]}},infer-types,eliminate-identities,"
        f"insert-fake-quant{{weight_widths={bits},activation_widths={bits}}},calibrate{{method=minmax}}{further}"
    )
    run_passes(module, text, data=images)
    return module


def converted(path, images, folder, runner=RUNNER):
    """FINN's conversion; its outputs lie in `results.npz`."""
    np.savez(folder / "inputs.npz", x=images)
    files = [path, folder / "inputs.npz", folder / "results.npz"]
    return subprocess.run([PYTHON, str(runner), *map(str, files)], capture_output=True, text=True, check=False)


def samples(source):
    if source == "residual":
        return residual(), np.random.default_rng(1).normal(size=(16, 3, 8, 8)).astype(np.float32)
    return qir.load(qir.models.path(source)), qir.models.fashion_mnist("calibration").images[:64]


@pytest.mark.parametrize("bits", [2, 4, 8])
@pytest.mark.parametrize("source", ["residual", "lenet"])
def test_the_profile_finn_is_converted_wholly_and_computes_the_same(tmp_path, source, bits):
    module, images = samples(source)
    report = export(prepared(module, images, bits, SYMMETRIC), tmp_path / "m.quant.onnx", profile="finn", data=images)
    run = converted(report.model, images[:4], tmp_path)
    assert run.returncode == 0, run.stderr[-1500:]
    assert "MultiThreshold" in run.stdout.split()
    assert not {"Quant", "BipolarQuant", "Gemm"} & set(run.stdout.split())
    (expected,) = QonnxReference(qir.load(report.model)).run({module.graph.inputs[0].name: images[:4]}).outputs.values()
    found = np.load(tmp_path / "results.npz")["y"]
    print(f"{source} at {bits} bits: largest difference {np.abs(found - expected).max():g}")
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("bits", [2, 4])
def test_a_perceptron_of_the_profile_finn_thresholds_becomes_hardware_layers(tmp_path, bits):
    random = np.random.default_rng(0)
    shapes = {"a.weight": (16, 8), "a.bias": (8,), "b.weight": (8, 8), "b.bias": (8,), "c.weight": (8, 4)}
    constants = [numpy_helper.from_array(random.normal(size=s).astype(np.float32), n) for n, s in shapes.items()]
    nodes = [
        helper.make_node("Gemm", ["x", "a.weight", "a.bias"], ["a"], name="a"),
        helper.make_node("Relu", ["a"], ["ar"], name="ar"),
        helper.make_node("Gemm", ["ar", "b.weight", "b.bias"], ["b"], name="b"),
        helper.make_node("Relu", ["b"], ["br"], name="br"),
        helper.make_node("Gemm", ["br", "c.weight"], ["y"], name="c"),
    ]
    infos = [helper.make_tensor_value_info(n, TensorProto.FLOAT, [4, size]) for n, size in (("x", 16), ("y", 4))]
    graph = helper.make_graph(nodes, "perceptron", infos[:1], infos[1:], constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    x = random.normal(size=(16, 16)).astype(np.float32)
    module = prepared(qir.load(model.SerializeToString()), x, bits, ",symmetric-activations")
    report = export(module, tmp_path / "m.quant.onnx", profile="finn-thresholds", data=x)
    run = converted(report.model, x[:4], tmp_path, LAYERS)
    assert run.returncode == 0, run.stderr[-1500:]
    assert run.stdout.split() == ["Thresholding", "MVAU", "MVAU", "MVAU", "Mul"]
    (expected,) = QonnxReference(qir.load(report.model)).run({"x": x[:4]}).outputs.values()
    np.testing.assert_array_equal(np.load(tmp_path / "results.npz")["y"], expected)


def test_a_zero_point_is_not_converted(tmp_path):
    images = np.random.default_rng(1).normal(size=(16, 3, 8, 8)).astype(np.float32)
    module = prepared(residual(), images, 8, "")
    with pytest.raises(QirError, match=r"FINN does not take this network: .* has a zero point"):
        export(module, tmp_path / "finn.onnx", profile="finn", data=images)
    report = export(module, tmp_path / "m.quant.onnx", profile="qonnx", data=images)
    run = converted(report.model, images[:4], tmp_path)
    assert run.returncode != 0 or "Quant" in run.stdout.split()


def test_stricter_rules_of_finn_itself_are_kept_that_this_fork_does_not_need(tmp_path):
    """After global pooling FINN 0.10 converts no quantizer; the fork does, and computes the same."""
    images = np.random.default_rng(1).normal(size=(16, 3, 8, 8)).astype(np.float32)
    module = prepared(residual(pool=True), images, 4, SYMMETRIC)
    with pytest.raises(QirError, match="follows GlobalAveragePool"):
        export(module, tmp_path / "finn.onnx", profile="finn", data=images)
    report = export(module, tmp_path / "m.quant.onnx", profile="qonnx", data=images)
    run = converted(report.model, images[:4], tmp_path)
    assert run.returncode == 0
    assert "Quant" not in run.stdout.split()
