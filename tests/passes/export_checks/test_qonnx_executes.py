"""Our QONNX and FINN-ONNX files in qonnx itself, tensor by tensor, and qonnx's own conversion of them to QCDQ.

qonnx lives in an environment of its own; QIR_QONNX_PYTHON names its interpreter:
`python -m venv E; E/bin/pip install qonnx==1.0.0 'onnx<1.23' onnxruntime`.
"""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

import qir
import qir.models
from qir.backends.execution.session import OrtSession
from qir.backends.qonnx.reference import QonnxReference
from qir.fake_quant import quantizers
from qir.passes import apply_policy, export, run_passes
from qir.passes.constraints.propagate_constraints import FIXED
from qir.passes.parity.executors import ReferenceNetwork

PYTHON = os.environ.get("QIR_QONNX_PYTHON")
RUNNER = Path(__file__).with_name("run_qonnx.py")
ALL = "1|2|3|4|5|6|7|8"

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(PYTHON is None, reason="QIR_QONNX_PYTHON names no interpreter with qonnx 1.0.0"),
]


def random_network(seed: int) -> qir.Module:
    """Convolutions of all kinds, an addition, a concatenation, pooling and products, drawn by a seed."""
    random, nodes, constants = np.random.default_rng(seed), [], []

    def op(kind, *inputs, **attributes):
        name = f"{kind.lower()}{len(nodes)}"
        nodes.append(helper.make_node(kind, list(inputs), [f"{name}_out"], name=name, **attributes))
        return f"{name}_out"

    def constant(name, *shape):
        constants.append(numpy_helper.from_array(random.normal(size=shape).astype(np.float32) / 3, name))
        return name

    def conv(x, inputs, outputs, kernel, group=1, **attributes):
        name = f"conv{len(nodes)}"
        weight = constant(f"{name}.weight", outputs, inputs // group, kernel, kernel)
        return op(
            "Conv", x, weight, constant(f"{name}.bias", outputs), group=group, pads=[kernel // 2] * 4, **attributes
        )

    width = 2 * int(random.integers(2, 5))
    y = op("Relu", conv("input", 3, width, 3, strides=[1 + seed % 2] * 2))
    y = op("Add", conv(y, width, width, 3, group=width), conv(y, width, width, 1, group=2))
    y = op("Relu", y) if seed % 3 else y
    y = op("Concat", y, op("Relu", conv(y, width, 3, 3)), axis=1)
    y = op("Relu", conv(op("MaxPool", y, kernel_shape=[2, 2], strides=[2, 2]), width + 3, 7, 3))
    y = op("Flatten", op("AveragePool", y, kernel_shape=[2, 2]) if seed % 2 else op("GlobalAveragePool", y))
    features = 7 * (1 if seed % 2 == 0 else 4)
    y = op("Relu", op("Gemm", y, constant("hidden.weight", 9, features), constant("hidden.bias", 9), transB=1))
    y = op("Gemm", y, constant("last.weight", 9, 4), constant("last.bias", 4))
    graph = helper.make_graph(
        nodes,
        f"random{seed}",
        [helper.make_tensor_value_info("input", TensorProto.FLOAT, ["N", 3, 12, 12])],
        [helper.make_tensor_value_info(y, TensorProto.FLOAT, ["N", 4])],
        constants,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    return qir.load(model.SerializeToString())


def quantized(module, images, weight, activation, further="", *, widths=ALL, activations=ALL):
    """Calibrated at these widths, its batch fixed at 4."""
    name, shape = module.graph.inputs[0].name, "x".join(map(str, (4, *images.shape[1:])))
    options = f"weight_widths={widths},activation_widths={activations}"
    text = f"fold-batchnorm,insert-fake-quant{{{options}}},calibrate{{method=minmax}}{further}"
    run_passes(module, text, data=images)
    fixed = f"freeze-inputs{{shapes=[{name}:{shape}]}},infer-types"
    run_passes(module, fixed)
    policy = {
        name: weight if node.source.is_constant else activation
        for name, node in quantizers(module.graph).items()
        if FIXED not in node.node.metadata and len(node.widths) > 1
    }
    apply_policy(module, policy)
    return module


def in_qonnx(path, feeds, *converted):
    """Every tensor of qonnx's execution, and stated and inferred data types of annotated ones."""
    folder = path.parent
    np.savez(folder / "inputs.npz", **feeds)
    command = [
        PYTHON,
        str(RUNNER),
        str(path),
        str(folder / "inputs.npz"),
        str(folder / "results.npz"),
        *map(str, converted),
    ]
    run = subprocess.run(command, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr[-2000:]
    found = np.load(folder / "results.npz")
    tensors = {str(name): found[f"t{i}"] for i, name in enumerate(found["names"])}
    return tensors, json.loads(run.stdout.splitlines()[-1])


def largest_difference(path, feeds, tensors):
    """Over every tensor of the network, of our executor and qonnx's: number of elements, largest difference."""
    values = QonnxReference(qir.load(path), optimization="all").values(feeds)
    compared = {value.name: array for value, array in values.items() if value.producer is not None and array.size}
    assert compared.keys() <= tensors.keys()
    worst = max(float(np.abs(array - tensors[name]).max()) for name, array in compared.items())
    return sum(array.size for array in compared.values()), worst


def check(module, images, profile, folder):
    """Export, execute in both, compare every tensor; returns elements compared and mismatches of the reference."""
    feeds = {module.graph.inputs[0].name: images}
    report = export(module, folder / "m.quant.onnx", profile=profile, data=images)
    tensors, types = in_qonnx(report.model, feeds)
    count, worst = largest_difference(report.model, feeds, tensors)
    assert worst == 0
    sums = {"INT32", "UINT32"} if profile == "finn-thresholds" else set()
    assert not {name: pair for name, pair in types.items() if pair[0] != pair[1] and pair[1] not in sums}
    reference = ReferenceNetwork(module)
    expected, kind = reference.run(feeds).outputs, reference.kind
    codes = wrong_codes = 0
    for name, array in expected.items():
        codes += array.size
        wrong_codes += int((np.abs(array - tensors[name]) > 1e-5 * np.abs(array).max()).sum())
    print(f"{profile}: {count} elements equal to qonnx, {wrong_codes} of {codes} outputs off the {kind}")
    return count, wrong_codes


@pytest.mark.parametrize("profile", ["qonnx", "finn-thresholds"])
@pytest.mark.parametrize(("weight", "activation"), [(8, 8), (4, 4), (1, 2), (2, 1), (5, 3)])
@pytest.mark.parametrize("seed", range(4))
def test_random_networks(tmp_path, seed, weight, activation, profile):
    images = np.random.default_rng(seed).normal(size=(32, 3, 12, 12)).astype(np.float32)
    module = quantized(random_network(seed), images, weight, activation)
    _, wrong = check(module, images[:4], profile, tmp_path)
    assert wrong == 0


@pytest.mark.parametrize(("weight", "activation"), [(12, 16), (16, 9)])
def test_widths_above_8_bits(tmp_path, weight, activation):
    images = np.random.default_rng(5).normal(size=(32, 3, 12, 12)).astype(np.float32)
    module = quantized(random_network(1), images, weight, activation, widths=f"{weight}", activations=f"{activation}")
    _, wrong = check(module, images[:4], "qonnx", tmp_path)
    assert wrong == 0


@pytest.mark.parametrize("profile", ["qonnx", "finn-thresholds"])
@pytest.mark.parametrize(("weight", "activation"), [(8, 8), (4, 4)])
@pytest.mark.parametrize("name", ["lenet", "residual", "resnet-20"])
def test_shipped_networks(tmp_path, name, weight, activation, profile):
    images = qir.models.fashion_mnist("calibration").images[:64]
    module = quantized(qir.load(qir.models.path(name)), images, weight, activation)
    check(module, images[:4], profile, tmp_path)


@pytest.mark.parametrize("source", ["random", "lenet", "residual", "resnet-20"])
@pytest.mark.parametrize(("weight", "activation"), [(8, 8), (4, 4), (2, 3)])
def test_qonnx_converts_our_file_to_qcdq_that_onnxruntime_runs(tmp_path, source, weight, activation):
    if source == "random":
        images = np.random.default_rng(1).normal(size=(32, 3, 12, 12)).astype(np.float32)
        module = random_network(1)
    else:
        images, module = qir.models.fashion_mnist("calibration").images[:64], qir.load(qir.models.path(source))
    module = quantized(module, images, weight, activation, ",symmetric-activations")
    feeds = {module.graph.inputs[0].name: images[:4]}
    report = export(module, tmp_path / "m.quant.onnx", profile="qonnx", data=images[:4])
    tensors, _ = in_qonnx(report.model, feeds, tmp_path / "qcdq.onnx")
    converted = qir.load(tmp_path / "qcdq.onnx")
    ops = {node.op for node in converted.graph}
    assert "Quant" not in ops
    assert {"QuantizeLinear", "DequantizeLinear"} <= ops
    for name, array in OrtSession(tmp_path / "qcdq.onnx", optimization="disable").run(feeds).items():
        np.testing.assert_array_equal(array, tensors[name])
