"""What real networks from other tools hold that hand-made ones lack; each case broke a stage once."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from qir import quantize
from qir.onnx_io import load
from qir.passes import export, raise_quantized
from qir.passes.analysis.constants import frozen

GENERATOR = np.random.default_rng(0)


def write(path, nodes, inputs, outputs, constants, opset=17):
    """An ONNX file of float32 inputs and outputs: name → shape."""

    def infos(shapes):
        return [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in shapes.items()]

    tensors = [numpy_helper.from_array(np.asarray(array, np.float32), name) for name, array in constants.items()]
    graph = helper.make_graph(nodes, "net", infos(inputs), infos(outputs), tensors)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8), path)
    return path


def normal(*shape):
    return GENERATOR.normal(size=shape).astype(np.float32)


@pytest.mark.parametrize("shape", [(1, 6), (4, 6), (4, 1), ()])
def test_a_gemm_whose_bias_is_not_a_vector_is_quantized_exactly(tmp_path, shape):
    file = write(
        tmp_path / "gemm.onnx",
        [helper.make_node("Gemm", ["x", "w", "b"], ["y"], name="fc")],
        {"x": [4, 8]},
        {"y": [4, 6]},
        {"w": normal(8, 6), "b": normal(*shape)},
    )
    done = quantize(file, target="npu-148", data=normal(8, 8), output=tmp_path / "q.onnx")
    assert done.written.mismatches == 0
    assert "QGemm" in done.written.integer_nodes


@pytest.mark.named_nodes
def test_two_layers_that_share_a_bias_are_corrected_each_for_itself(tmp_path):
    nodes = [
        helper.make_node("Gemm", ["x", "w", "b"], ["h"], name="first"),
        helper.make_node("Gemm", ["h", "v", "b"], ["y"], name="second"),
    ]
    file = write(
        tmp_path / "shared.onnx",
        nodes,
        {"x": ["batch", 6]},
        {"y": ["batch", 6]},
        {"w": normal(6, 6), "v": normal(6, 6), "b": normal(6)},
    )
    done = quantize(file, target="npu-148", data=normal(64, 6), output=tmp_path / "q.onnx")
    names = {value.name for value in load(done.written.model).graph.constants}
    assert {"b.codes", "first.bias.codes"} <= names
    assert done.written.mismatches == 0


def test_the_output_of_a_file_that_was_exported_already_keeps_its_name_in_encodings(tmp_path):
    file = write(
        tmp_path / "gemm.onnx",
        [helper.make_node("Gemm", ["x", "w"], ["y"], name="fc")],
        {"x": ["batch", 8]},
        {"y": ["batch", 6]},
        {"w": normal(8, 6)},
    )
    first = quantize(file, target="npu-148", data=normal(8, 8), output=tmp_path / "q.onnx").written
    module = load(first.model)
    raise_quantized(module)
    again = export(module, tmp_path / "again.onnx", profile="encodings", data=normal(8, 8))
    assert '"name": "y"' in again.encodings.read_text()
    assert again.mismatches == 0


def test_encodings_of_a_recurrent_layer_come_back(tmp_path):
    nodes = [helper.make_node("LSTM", ["x", "w", "r"], ["y"], name="lstm", hidden_size=4)]
    constants = {"w": normal(1, 16, 5), "r": normal(1, 16, 4)}
    file = write(tmp_path / "lstm.onnx", nodes, {"x": [6, 2, 5]}, {"y": [6, 1, 2, 4]}, constants)
    done = quantize(file, target="npu-148", data=normal(6, 2, 5), output=tmp_path / "q.onnx", profile="encodings")
    assert done.written.mismatches == 0


def test_a_channel_that_vanishes_next_to_the_others_of_its_weight_is_exported(tmp_path):
    weight, bias = normal(4, 3, 3, 3), normal(4)
    weight[1] *= np.float32(1e-34)
    bias[1] = -5e-28
    nodes = [helper.make_node("Conv", ["x", "w", "b"], ["y"], name="conv")]
    file = write(
        tmp_path / "dead.onnx", nodes, {"x": ["batch", 3, 8, 8]}, {"y": ["batch", 4, 6, 6]}, {"w": weight, "b": bias}
    )
    done = quantize(file, target="npu-148", data=normal(8, 3, 8, 8), output=tmp_path / "q.onnx")
    assert done.written.mismatches == 0


def test_weights_that_are_all_zero_go_through_a_file_at_one_bit(tmp_path):
    nodes = [helper.make_node("Gemm", ["x", "w"], ["y"], name="fc")]
    file = write(tmp_path / "z.onnx", nodes, {"x": ["batch", 8]}, {"y": ["batch", 6]}, {"w": np.zeros((8, 6))})
    first = quantize(
        file,
        target="npu-148",
        data=normal(8, 8),
        output=tmp_path / "q.onnx",
        budgets={"size": "0.2x"},
        input_widths="all",
    ).written
    module = load(first.model)
    raise_quantized(module)
    assert export(module, tmp_path / "again.onnx", data=normal(8, 8)).mismatches == 0


def test_a_bound_may_be_infinite(tmp_path):
    nodes = [
        helper.make_node("Gemm", ["x", "w"], ["h"], name="fc"),
        helper.make_node("Max", ["h", "bound"], ["y"], name="max"),
    ]
    constants = {"w": normal(8, 6), "bound": np.full(6, -np.inf)}
    file = write(tmp_path / "bound.onnx", nodes, {"x": ["batch", 8]}, {"y": ["batch", 6]}, constants)
    done = quantize(file, target="npu-148", data=normal(8, 8), output=tmp_path / "q.onnx")
    assert done.written.mismatches == 0


def test_a_numpy_scalar_becomes_a_tensor_of_rank_0():
    assert frozen(np.float32(2) * np.ones((), np.float32)).shape == ()


def test_a_branch_that_reads_a_quantized_value_around_it_is_exported(tmp_path):
    def branch(op):
        node = helper.make_node(op, ["h"], [f"{op}.result"], name=op)
        return helper.make_graph(
            [node], op, [], [helper.make_tensor_value_info(f"{op}.result", TensorProto.FLOAT, None)]
        )

    nodes = [
        helper.make_node("Conv", ["x", "w"], ["h"], name="conv"),
        helper.make_node("ReduceSum", ["x"], ["sum"], name="sum", keepdims=0),
        helper.make_node("Greater", ["sum", "zero"], ["positive"], name="greater"),
        helper.make_node("If", ["positive"], ["y"], then_branch=branch("Squeeze"), else_branch=branch("Flatten")),
    ]
    constants = {"w": normal(4, 3, 3, 3), "zero": np.zeros(())}
    file = write(tmp_path / "if.onnx", nodes, {"x": [2, 3, 8, 8]}, {"y": None}, constants)
    done = quantize(file, target="npu-148", data=normal(8, 3, 8, 8), output=tmp_path / "q.onnx")
    assert done.written.mismatches == 0
