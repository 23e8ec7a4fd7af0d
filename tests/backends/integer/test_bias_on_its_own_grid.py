"""A bias counts in the scale that the file gives it, whatever its type: legal QDQ of other tools."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import qir
from qir.backends.integer.reference import IntegerReference
from qir.passes.parity.compare import parity


def convolution(bias_scale: np.ndarray, dtype: str) -> tuple[qir.Module, np.ndarray]:
    """Quantized Conv and Relu; weights per channel without zero points, values below 64. The float bias with it."""
    random = np.random.default_rng(3)
    bias = np.clip(np.rint(random.normal(size=6) / bias_scale), np.iinfo(dtype).min, np.iinfo(dtype).max).astype(dtype)
    constants = {
        "xs": np.float32(0.03),
        "xz": np.uint8(128),
        "wq": random.integers(-63, 64, (6, 4, 3, 3)).astype(np.int8),
        "ws": np.linspace(0.002, 0.006, 6).astype(np.float32),
        "bq": bias,
        "bs": bias_scale.astype(np.float32),
        "ys": np.float32(0.05),
        "yz": np.uint8(0),
    }
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "xs", "xz"], ["xq"]),
        helper.make_node("DequantizeLinear", ["xq", "xs", "xz"], ["xd"]),
        helper.make_node("DequantizeLinear", ["wq", "ws"], ["wd"], axis=0),
        helper.make_node("DequantizeLinear", ["bq", "bs"], ["bd"], axis=0),
        helper.make_node("Conv", ["xd", "wd", "bd"], ["c"]),
        helper.make_node("Relu", ["c"], ["r"]),
        helper.make_node("QuantizeLinear", ["r", "ys", "yz"], ["yq"]),
        helper.make_node("DequantizeLinear", ["yq", "ys", "yz"], ["y"]),
    ]
    graph = helper.make_graph(
        nodes,
        "one",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 4, 6, 6])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", 6, 4, 4])],
        [numpy_helper.from_array(np.asarray(array), name) for name, array in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    onnx.checker.check_model(model)
    return qir.load(model.SerializeToString()), bias.astype(np.float64) * bias_scale


@pytest.mark.parametrize(
    ("scale", "dtype"),
    [
        (np.linspace(0.002, 0.006, 6).astype(np.float32) * np.float32(0.03), "int32"),
        (np.full(6, 0.001), "int32"),
        (np.linspace(0.0001, 0.01, 6), "int32"),
        (np.full(6, 0.02), "int8"),
    ],
    ids=["of the sums", "one for all channels", "one a channel", "of 8 bits"],
)
def test_the_bias_is_added_at_its_scale(scale, dtype) -> None:
    module, bias = convolution(scale, dtype)
    pixels = np.random.default_rng(1).normal(size=(4, 4, 6, 6)).astype(np.float32)
    output = IntegerReference(module).run({"x": pixels}).outputs["y"]
    data = np.clip(np.rint(pixels / np.float32(0.03)) + 128, 0, 255) - 128
    arrays = {value.name: value.constant.numpy() for value in module.graph.constants if value.constant is not None}
    weight = arrays["wq"].astype(np.float64) * arrays["ws"].astype(np.float64).reshape(-1, 1, 1, 1)
    by_hand = (data[:, None, :, :3, :3] * 0.03 * weight).sum((2, 3, 4)) + bias
    np.testing.assert_allclose(output[:, :, 0, 0], np.clip(by_hand, 0, 0.05 * 255), atol=0.026)


def test_the_verdict_on_such_a_file_is_not_fault() -> None:
    module, _ = convolution(np.full(6, 0.001), "int32")
    report = parity(module, engines=["fused", "plain"])
    assert report.faults("fused") == report.faults("plain") == 0
