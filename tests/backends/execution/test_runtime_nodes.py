"""Operators that ONNX Runtime runs and torch has no lowering of: quantized with and without budgets, judged by it."""

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper

import qir
from qir.backends.execution.session import OrtSession
from qir.backends.torch.module import TorchModule
from qir.backends.training.loop import protocol
from qir.errors import QirError
from qir.search.evaluation.accuracy import AccuracyObjective, ArraySamples, EvaluationProtocol


def random(*shape, seed=0, size=1.0):
    return (np.random.default_rng(seed).standard_normal(shape) * size).astype(np.float32)


SAMPLES = random(16, 6, 8, seed=3)


def between_products(opset, op, operands=("h",), constants=None, domain="", **attributes):
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["h"], name="first"),
        helper.make_node(op, list(operands), ["z"], name="middle", domain=domain, **attributes),
        helper.make_node("MatMul", ["z", "w2"], ["y"], name="second"),
    ]
    arrays = {"w": random(8, 8, seed=2, size=0.4), "w2": random(8, 5, seed=3, size=0.4), **(constants or {})}
    inputs = [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 6, 8])]
    outputs = [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", 6, 5])]
    held = [onnx.numpy_helper.from_array(array, name) for name, array in arrays.items()]
    graph = helper.make_graph(nodes, "g", inputs, outputs, held)
    opsets = [helper.make_opsetid("", opset), helper.make_opsetid("com.microsoft", 1)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=10 if opset < 24 else 11)


def of_microsoft(op, operands=("h",), constants=None, **attributes):
    return between_products(17, op, operands, constants, "com.microsoft", **attributes)


NETWORKS = {
    "Gelu": lambda: of_microsoft("Gelu"),
    "SkipLayerNormalization": lambda: of_microsoft(
        "SkipLayerNormalization", ("h", "x", "g", "b"), {"g": random(8), "b": random(8)}
    ),
    "FusedMatMul": lambda: of_microsoft("FusedMatMul", ("h", "m"), {"m": random(8, 8)}, alpha=0.5),
    "Attention": lambda: of_microsoft(
        "Attention", ("h", "a", "b"), {"a": random(8, 24, size=0.4), "b": random(24)}, num_heads=2
    ),
    "Attention-23": lambda: between_products(23, "Attention", ("h", "h", "h"), q_num_heads=2, kv_num_heads=2),
    "Swish-24": lambda: between_products(24, "Swish"),
}


@pytest.fixture(params=NETWORKS)
def path(request, tmp_path):
    made = tmp_path / "float.onnx"
    onnx.save(NETWORKS[request.param](), made)
    return made


def outputs(network):
    return OrtSession(network, optimization="disable").run({"x": SAMPLES})["y"]


def decibels(exact, found):
    return 10 * np.log10(np.square(exact).sum() / np.square(exact - found).sum())


def test_eight_bits_are_close_to_float(path, tmp_path):
    done = qir.quantize(path, target="npu-148", data=SAMPLES, output=tmp_path / "q.onnx")
    assert decibels(outputs(path), outputs(done.written.model)) > 34


def test_budgets_choose_bits_without_gradients(path, tmp_path):
    budgets = {"latency": "0.9x"}
    done = qir.quantize(path, target="npu-148", data=SAMPLES, budgets=budgets, output=tmp_path / "q.onnx")
    assert min(done.result.policy.values()) < 8
    assert decibels(outputs(path), outputs(done.written.model)) > 14


def test_the_network_computes_what_the_runtime_computes_and_weights_may_change(path):
    module = qir.load(path)
    network = TorchModule(module)
    with torch.no_grad():
        np.testing.assert_allclose(network(torch.from_numpy(SAMPLES))[0], outputs(path), atol=1e-4)
        for parameter in network.trainable_constants().values():
            parameter.mul_(2)
        changed = network(torch.from_numpy(SAMPLES))[0]
        network.write_back(module)
    np.testing.assert_allclose(changed, outputs(module), atol=1e-3)


@pytest.mark.named_nodes
def test_what_needs_gradients_says_so_by_name_before_any_work(path):
    module = qir.load(path)
    with pytest.raises(QirError, match=r"gradients are needed, and torch has no lowering of .*middle"):
        TorchModule(module, trainable=True)
    splits = {"calibration": "a", "validation": "b", "retraining": "c"}
    samples = {role: ArraySamples(SAMPLES, np.zeros(16, np.int64), name) for role, name in splits.items()}
    with pytest.raises(QirError, match="middle"):
        AccuracyObjective(module, None, **samples, protocol=EvaluationProtocol(retrain=protocol("short")))
