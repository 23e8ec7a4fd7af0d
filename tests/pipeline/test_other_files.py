"""Networks as other exporters write them: weights in a file beside the model, one bias that two layers read."""

from __future__ import annotations

import numpy as np
import onnxruntime
from onnx import TensorProto, helper, numpy_helper

import qir
import qir.models
import qir.onnx_io
from qir.onnx_io import from_proto
from qir.passes import PassContext, PassManager, export, parse_pipeline
from qir.search.quantize import quantize

STEPS = "insert-fake-quant{weight_widths=4|8,activation_widths=8},calibrate"


def test_weights_beside_the_model_stay_beside_it(tmp_path) -> None:
    path, images = tmp_path / "lenet.onnx", qir.models.fashion_mnist("calibration").images[:16]
    qir.save(qir.load(qir.models.path("lenet")), path, external=True)
    done = quantize(path, target="npu-148", data=images, insert="exclude=fc1", output=tmp_path / "model.quant.onnx")
    assert done.written.mismatches == 0
    assert done.written.integer_nodes == ("QLinearConv", "QGemm")
    assert (tmp_path / "model.quant.onnx.data").stat().st_size > 400_000


def test_a_bias_that_two_layers_read_has_codes_for_each(tmp_path) -> None:
    generator = np.random.default_rng(0)
    constants = {
        "a.weight": generator.normal(size=(6, 5)),
        "b.weight": 3 * generator.normal(size=(6, 6)),
        "bias": generator.normal(size=6),
    }
    graph = helper.make_graph(
        [
            helper.make_node("Gemm", ["x", "a.weight", "bias"], ["p"], name="a", transB=1),
            helper.make_node("Relu", ["p"], ["r"], name="relu"),
            helper.make_node("Gemm", ["r", "b.weight", "bias"], ["y"], name="b", transB=1),
        ],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 5])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(array.astype(np.float32), name) for name, array in constants.items()],
    )
    module = from_proto(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8))
    x = generator.normal(size=(32, 5)).astype(np.float32)
    before = onnxruntime.InferenceSession(qir.onnx_io.to_bytes(module)).run(None, {"x": x})[0]
    PassManager(parse_pipeline(STEPS)).run(module, PassContext(calibration_data=x))
    report = export(module, tmp_path / "model.onnx", data=x)
    assert report.mismatches == 0
    assert report.integer_nodes == ("QGemm", "QGemm")
    found = onnxruntime.InferenceSession(str(report.model)).run(None, {"x": x})[0]
    assert np.linalg.norm(found - before) < 0.05 * np.linalg.norm(before)
