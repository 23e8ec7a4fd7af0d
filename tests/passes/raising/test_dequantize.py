"""Quantized networks become the float networks that their codes stand for."""

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from onnxruntime.quantization import QuantType, quantize_dynamic

import qir
from qir.backends.execution.session import OrtSession
from qir.errors import PassError
from qir.passes import run_passes
from qir.passes.analysis.constants import array_of

CODES = ("Integer", "Quantize", "Dequantize")


def saved(folder, nodes, inputs, weights, outputs=("y",)):
    """A float network with random weights, and its path."""
    generator = np.random.default_rng(0)
    arrays = {name: generator.standard_normal(shape).astype(np.float32) for name, shape in weights.items()}
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info(name, kind, shape) for name, (kind, shape) in inputs.items()],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in outputs],
        [numpy_helper.from_array(array, name) for name, array in arrays.items()],
    )
    path = folder / "float.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    return path


def dense(folder):
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["h"]),
        helper.make_node("Add", ["h", "b"], ["a"]),
        helper.make_node("Relu", ["a"], ["r"]),
        helper.make_node("MatMul", ["r", "v"], ["y"]),
    ]
    return saved(folder, nodes, {"x": (TensorProto.FLOAT, [4, 16])}, {"w": (16, 8), "b": (8,), "v": (8, 5)})


def recurrent(folder):
    """Ids → embedding, twice → both directions of an LSTM."""
    nodes = [
        helper.make_node("Gather", ["table", "x"], ["e"]),
        helper.make_node("Transpose", ["e"], ["t"], perm=[1, 0, 2]),
        helper.make_node("LSTM", ["t", "w", "r", "b"], ["h"], hidden_size=6, direction="bidirectional"),
        helper.make_node("ReduceMean", ["e"], ["m"], axes=[0, 1, 2], keepdims=0),
        helper.make_node("Add", ["h", "m"], ["y"]),
    ]
    weights = {"table": (20, 5), "w": (2, 24, 5), "r": (2, 24, 6), "b": (2, 48)}
    return saved(folder, nodes, {"x": (TensorProto.INT64, [3, 7])}, weights)


def convolution(folder):
    nodes = [helper.make_node("Conv", ["x", "w", "b"], ["y"], pads=[1, 1, 1, 1])]
    return saved(folder, nodes, {"x": (TensorProto.FLOAT, [1, 3, 8, 8])}, {"w": (4, 3, 3, 3), "b": (4,)})


def feed_of(path):
    generator, feed = np.random.default_rng(1), {}
    for value in onnx.load(path).graph.input:
        shape = [dim.dim_value for dim in value.type.tensor_type.shape.dim]
        ids = value.type.tensor_type.elem_type == TensorProto.INT64
        feed[value.name] = (
            generator.integers(0, 20, shape) if ids else generator.standard_normal(shape).astype(np.float32)
        )
    return feed


def decibels(expected, found):
    return 10 * np.log10((expected**2).sum() / ((expected - found) ** 2).sum())


@pytest.mark.parametrize("per_channel", [False, True])
@pytest.mark.parametrize("network", [dense, recurrent, convolution])
def test_a_file_of_quantize_dynamic_gives_back_its_float_network(tmp_path, network, per_channel):
    path, quantized = network(tmp_path), tmp_path / "dynamic.onnx"
    quantize_dynamic(path, quantized, per_channel=per_channel, weight_type=QuantType.QInt8)
    assert any(
        node.op_type.endswith("Integer") or "Quantize" in node.op_type for node in onnx.load(quantized).graph.node
    )

    made = run_passes(qir.load(quantized), "dequantize")

    assert not [node.op for node in made.graph.walk() if any(word in node.op for word in CODES)]
    feed = feed_of(path)
    expected, found = OrtSession(path).run(feed)["y"], OrtSession(made).run(feed)["y"]
    assert decibels(expected, found) > 33  # only the weights are rounded, to 8 bits


def test_an_integer_bias_becomes_the_float_one_that_it_was_made_from(tmp_path):
    weights = {"codes": np.random.default_rng(0).integers(-127, 128, (4, 3, 3, 3)).astype(np.int8)}
    weights |= {"s": np.float32(0.02), "bias": np.array([1, -2, 3, 0.25], np.float32), "shape": np.array([1, -1, 1, 1])}
    nodes = [
        helper.make_node("DynamicQuantizeLinear", ["x"], ["q", "qs", "qz"]),
        helper.make_node("ConvInteger", ["q", "codes", "qz"], ["sums"], name="conv"),
        helper.make_node("Mul", ["qs", "s"], ["f"]),
        helper.make_node("Div", ["bias", "f"], ["d"]),
        helper.make_node("Floor", ["d"], ["n"]),
        helper.make_node("Cast", ["n"], ["i"], to=TensorProto.INT32),
        helper.make_node("Reshape", ["i", "shape"], ["j"]),
        helper.make_node("Add", ["sums", "j"], ["a"]),
        helper.make_node("Cast", ["a"], ["c"], to=TensorProto.FLOAT),
        helper.make_node("Mul", ["c", "f"], ["y"]),
    ]
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 3, 5, 5])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(np.asarray(array), name) for name, array in weights.items()],
    )
    path = tmp_path / "old.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8), path)

    made = run_passes(qir.load(path), "dequantize")

    (conv,) = made.graph.nodes
    assert conv.op == "Conv"
    assert np.array_equal(array_of(conv.operand(1)), weights["codes"] * np.float32(0.02))
    assert np.array_equal(array_of(conv.operand(2)), weights["bias"])


def test_a_quantized_file_is_refused_with_the_option_that_takes_it(tmp_path):
    path, quantized = dense(tmp_path), tmp_path / "dynamic.onnx"
    quantize_dynamic(path, quantized, weight_type=QuantType.QInt8)
    samples = [feed_of(path)]
    with pytest.raises(PassError, match="--before dequantize"):
        qir.quantize(quantized, target="systolic-16x16", data=samples, output=tmp_path / "q.onnx")

    done = qir.quantize(
        quantized,
        target="systolic-16x16",
        data=samples,
        budgets={"size": "0.5x"},
        before="dequantize",
        output=tmp_path / "q.onnx",
        compare=False,
    )

    assert set(done.policy.values()) > {8}


@pytest.mark.named_nodes
def test_sums_of_codes_in_another_form_are_refused_by_name(tmp_path):
    node = helper.make_node("MatMulInteger", ["x", "w"], ["y"], name="alone")
    graph = helper.make_graph(
        [node],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.UINT8, [2, 3])],
        [helper.make_tensor_value_info("y", TensorProto.INT32, None)],
        [numpy_helper.from_array(np.ones((3, 4), np.int8), "w")],
    )
    path = tmp_path / "sums.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8), path)
    with pytest.raises(PassError, match=r"'alone' \(MatMulInteger\)"):
        run_passes(qir.load(path), "dequantize")
