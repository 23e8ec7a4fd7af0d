"""Networks as other exporters write them: weights in a file next to the model, one bias that two layers read."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

import qir
import qir.onnx_io
from qir import quantize
from qir.onnx_io import from_proto
from qir.passes import PassContext, PassManager, export, parse_pipeline, run_passes
from qir.tensor import Tensor

STEPS = "insert-fake-quant{weight_widths=4|8,activation_widths=8},calibrate"


def module_of(nodes, width: int, **constants: np.ndarray):
    """A network on float32 [n, width]."""
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", width])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(array.astype(np.float32), name) for name, array in constants.items()],
    )
    return from_proto(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8))


def test_what_lies_next_to_the_model_stays_next_to_it(tmp_path) -> None:
    generator = np.random.default_rng(0)
    nodes = [
        helper.make_node("Gemm", ["x", "w"], ["p"], name="layer"),
        helper.make_node("Sigmoid", ["p"], ["s"], name="sigmoid"),
        helper.make_node("Mul", ["s", "k"], ["y"], name="gate"),
    ]
    module = module_of(nodes, 8, w=generator.normal(size=(8, 512)), k=generator.normal(size=512))
    path, x = tmp_path / "gate.onnx", generator.normal(size=(16, 8)).astype(np.float32)
    qir.save(module, path, external=True)
    done = quantize(path, target="npu-148", data=x, output=tmp_path / "out.onnx", correct=False)
    assert done.written.mismatches == 0
    assert done.written.integer_nodes
    (data,) = tmp_path.glob("out.onnx.*.data")
    assert data.stat().st_size >= 2048


@pytest.mark.named_nodes("equal")
def test_a_bias_that_two_layers_read_has_codes_for_each(tmp_path) -> None:
    generator = np.random.default_rng(0)
    constants = {
        "a.weight": generator.normal(size=(6, 5)),
        "b.weight": 3 * generator.normal(size=(6, 6)),
        "bias": generator.normal(size=6),
    }
    nodes = [
        helper.make_node("Gemm", ["x", "a.weight", "bias"], ["p"], name="a", transB=1),
        helper.make_node("Relu", ["p"], ["r"], name="relu"),
        helper.make_node("Gemm", ["r", "b.weight", "bias"], ["y"], name="b", transB=1),
    ]
    module = module_of(nodes, 5, **constants)
    x = generator.normal(size=(32, 5)).astype(np.float32)
    before = onnxruntime.InferenceSession(qir.onnx_io.to_bytes(module)).run(None, {"x": x})[0]
    run_passes(module, STEPS, data=x)
    report = export(module, tmp_path / "model.onnx", data=x)
    assert report.mismatches == 0
    assert report.integer_nodes == ("QGemm", "QGemm")
    found = onnxruntime.InferenceSession(str(report.model)).run(None, {"x": x})[0]
    assert np.linalg.norm(found - before) < 0.05 * np.linalg.norm(before)


@pytest.mark.named_nodes
def test_a_layer_inside_a_loop_stays_float_and_the_rest_is_integers(tmp_path) -> None:
    generator = np.random.default_rng(0)
    body = helper.make_graph(
        [
            helper.make_node("MatMul", ["h", "v"], ["m"], name="inner"),
            helper.make_node("Tanh", ["m"], ["next"]),
            helper.make_node("Identity", ["going"], ["on"]),
        ],
        "body",
        [
            helper.make_tensor_value_info("turn", TensorProto.INT64, []),
            helper.make_tensor_value_info("going", TensorProto.BOOL, []),
            helper.make_tensor_value_info("h", TensorProto.FLOAT, ["n", 6]),
        ],
        [
            helper.make_tensor_value_info("on", TensorProto.BOOL, []),
            helper.make_tensor_value_info("next", TensorProto.FLOAT, ["n", 6]),
        ],
    )
    nodes = [
        helper.make_node("Gemm", ["x", "a"], ["h0"], name="first"),
        helper.make_node("Loop", ["", "", "h0"], ["h1"], body=body, name="loop"),
        helper.make_node("Gemm", ["h1", "b"], ["y"], name="last"),
    ]
    module = module_of(
        nodes,
        5,
        a=generator.normal(size=(5, 6)),
        b=generator.normal(size=(6, 3)),
        v=0.3 * generator.normal(size=(6, 6)),
    )
    loop = next(node for node in module.graph if node.op == "Loop")
    loop.set_input(0, module.graph.add_constant("turns", Tensor.of(np.asarray(3, np.int64))))
    x = generator.normal(size=(16, 5)).astype(np.float32)
    context = PassContext(calibration_data=x)
    PassManager(parse_pipeline(STEPS)).run(module, context)
    assert "inside a subgraph of Loop" in context.reports["insert-fake-quant"]["inner"]
    report = export(module, tmp_path / "model.onnx", data=x)
    assert report.mismatches == 0
    assert report.reference == "integer reference"


def test_bits_of_a_map_with_one_channel_are_chosen_by_its_distance(tmp_path) -> None:
    generator = np.random.default_rng(0)
    weights = {"a": generator.normal(size=(8, 3, 3, 3)), "b": generator.normal(size=(1, 8, 1, 1))}
    nodes = [
        helper.make_node("Conv", ["x", "a"], ["p"], name="first", kernel_shape=[3, 3]),
        helper.make_node("Relu", ["p"], ["r"], name="relu"),
        helper.make_node("Conv", ["r", "b"], ["y"], name="second", kernel_shape=[1, 1]),
    ]
    image, scores = (helper.make_tensor_value_info(n, 1, ["n", c, s, s]) for n, c, s in (("x", 3, 8), ("y", 1, 6)))
    constants = [numpy_helper.from_array(array.astype(np.float32), name) for name, array in weights.items()]
    graph = helper.make_graph(nodes, "map", [image], [scores], constants)
    path, x = tmp_path / "map.onnx", generator.normal(size=(16, 3, 8, 8)).astype(np.float32)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), path)
    done = quantize(path, target="npu-148", data=x, output=tmp_path / "out.onnx", budgets={"latency": "0.7x"})
    assert done.result is not None
    assert done.result.value > 0
