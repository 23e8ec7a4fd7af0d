"""`qir inspect`: what a network is made of, what of it can be quantized, and why the rest cannot."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper


def test_layers_have_sizes_weights_products_and_what_is_quantized(answer):
    found = answer("inspect", "lenet")
    assert found["ops"]["Conv"] == 2
    first = found["layers"][0]
    assert (first["op"], first["weights"], first["macs"]) == ("Conv", 20 * 25, 20 * 25 * 24 * 24)
    assert first["quantizers"] == ["conv1.input", "conv1.weight"]
    assert found["macs_on_codes"] == 1.0
    assert "BatchNormalization" not in {kind["op"] for kind in found["others"]}, "it is folded"


def test_sizes_that_are_open_are_given(answer):
    assert answer("inspect", "lenet", "--batch", "4")["layers"][0]["macs"] == 4 * 288_000


@pytest.fixture
def odd(tmp_path):
    """A network with a layer in a subgraph, an op that nobody knows, and a layer that can be quantized."""
    inner = helper.make_graph(
        [helper.make_node("MatMul", ["h", "w"], ["inner"], name="inside")],
        "branch",
        [],
        [helper.make_tensor_value_info("inner", TensorProto.FLOAT, [1, 4])],
    )
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["h"], name="first"),
        helper.make_node("If", ["c"], ["i"], name="choice", then_branch=inner, else_branch=inner),
        helper.make_node("Mystery", ["i"], ["y"], name="odd", domain="somebody"),
    ]
    graph = helper.make_graph(
        nodes,
        "odd",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 4]), helper.make_tensor_value_info("c", 9, [])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(np.eye(4, dtype=np.float32), "w")],
    )
    opsets = [helper.make_opsetid("", 18), helper.make_opsetid("somebody", 1)]
    onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=8), tmp_path / "odd.onnx")
    return tmp_path / "odd.onnx"


def test_what_stays_float_says_why(answer, odd):
    found = answer("inspect", odd)
    reasons = {layer["name"]: layer["reason"] for layer in found["layers"]}
    assert reasons["first"] == ""
    assert all("it stands inside a subgraph of If" in reason for name, reason in reasons.items() if name != "first")
    others = {kind["op"]: kind["reason"] for kind in found["others"]}
    assert others["Mystery"] == "the op is not known: it is kept as it is"


def test_a_network_that_cannot_be_quantized_says_why(answer, tmp_path):
    value = helper.make_tensor_value_info("x", TensorProto.FLOAT, [1])
    result = helper.make_tensor_value_info("y", TensorProto.FLOAT, [1])
    graph = helper.make_graph([helper.make_node("Relu", ["x"], ["y"])], "relu", [value], [result])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)
    onnx.save(model, tmp_path / "relu.onnx")
    assert "no quantizable layers" in answer("inspect", tmp_path / "relu.onnx")["refused"]
