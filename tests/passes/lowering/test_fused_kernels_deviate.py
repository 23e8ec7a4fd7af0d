"""What ONNX Runtime's fused kernels compute otherwise than ONNX is kept out of exported files."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import qir
from qir.backends.execution.session import OrtSession
from qir.passes import PassContext, PassManager, export, parse_pipeline, raise_quantized
from qir.passes.lowering.profiles.fused_kernels import fused_kernels

KERNEL = {"kernel_shape": [3, 2], "strides": [2, 3]}
CEILED = KERNEL | {"ceil_mode": 1, "count_include_pad": 1}
NODES = {
    "ceiled, padding counted": ("AveragePool", CEILED, 19),
    "ceiled, padding counted, padded": ("AveragePool", CEILED | {"pads": [1, 0, 2, 1]}, 19),
    "ceiled, valid": ("AveragePool", CEILED | {"auto_pad": "VALID"}, 19),
    "ceiled, same": ("AveragePool", CEILED | {"auto_pad": "SAME_LOWER"}, 21),
    "ceiled, padding left out": ("AveragePool", KERNEL | {"ceil_mode": 1, "pads": [1, 0, 2, 1]}, 19),
    "no dilation": ("AveragePool", KERNEL | {"dilations": [1, 1]}, 19),
    "dilated": ("AveragePool", KERNEL | {"dilations": [1, 2]}, 19),
    "dilated, padding counted": ("AveragePool", CEILED | {"dilations": [2, 2], "pads": [1, 1, 0, 1]}, 22),
    "certain": ("Softmax", {"axis": 1}, 13),
    "certain, last axis": ("Softmax", {}, 21),
    "linear": ("Resize", {"mode": "linear", "coordinate_transformation_mode": "align_corners"}, 19),
    "cubic": ("Resize", {"mode": "cubic"}, 13),
}


def network(op: str, attributes: dict, opset: int) -> qir.Module:
    """Conv, the node, Conv, and a Conv next to the node, so that its operand has a quantizer.

    All weights are ones on the diagonal: the node's values are what counts.
    """
    eye = np.eye(3, dtype=np.float32).reshape(3, 3, 1, 1)
    inputs = ["a", "", "scales"] if op == "Resize" else ["a"]
    nodes = [
        helper.make_node("Conv", ["x", "first"], ["a"]),
        helper.make_node(op, inputs, ["b"], **attributes),
        helper.make_node("Conv", ["b", "second"], ["y"]),
        helper.make_node("Conv", ["a", "second"], ["z"]),
    ]
    constants = {"first": eye * np.float32(0.9), "second": eye, "scales": np.array([1, 1, 2, 1.5], np.float32)}
    graph = helper.make_graph(
        nodes,
        "node",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 3, 9, 10])],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["N", 3, None, None]) for name in ("y", "z")],
        [
            numpy_helper.from_array(array, name)
            for name, array in constants.items()
            if name != "scales" or len(inputs) > 1
        ],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=10)
    onnx.checker.check_model(model)
    return qir.load(model.SerializeToString())


def batched_product() -> qir.Module:
    """MatMul, MatMul: the first by a weight for every batch entry."""
    generator = np.random.default_rng(5)
    first = generator.normal(size=(3, 10, 4)).astype(np.float32)
    second = generator.normal(size=(4, 5)).astype(np.float32)
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "first"], ["a"]), helper.make_node("MatMul", ["a", "second"], ["y"])],
        "products",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 3, 9, 10])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", 3, 9, 5])],
        [numpy_helper.from_array(first, "first"), numpy_helper.from_array(second, "second")],
    )
    return qir.load(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10).SerializeToString()
    )


def samples(seed: int, spread: float) -> np.ndarray:
    """[8, 3, 9, 10]: numbers whose mean is not zero, so that a wrong count shows."""
    return np.random.default_rng(seed).normal(1, spread, size=(8, 3, 9, 10)).astype(np.float32)


@pytest.mark.parametrize("profile", ["qcdq", "qoperator"])
@pytest.mark.parametrize("name", NODES)
def test_every_session_computes_the_node_as_onnx_says(name, profile, tmp_path) -> None:
    module = network(*NODES[name])
    calibrated = module.clone()
    pipeline = parse_pipeline("infer-types,insert-fake-quant,calibrate{method=minmax}")
    PassManager(pipeline).run(calibrated, PassContext(calibration_data=samples(1, 1)))
    report = export(calibrated, tmp_path / "node.quant.onnx", profile=profile, data=samples(1, 1))
    assert report.mismatches == 0
    apart = {"dilated", "dilated, padding counted", "ceiled, padding counted, padded"}
    guarded = any(node.op == "Max" for node in qir.load(report.model).graph)
    assert guarded == (NODES[name][0] != "AveragePool" or name in apart)
    seen = samples(2, 1 if NODES[name][0] != "Softmax" else 20)  # beyond what calibration saw: codes saturate
    default = OrtSession(report.model).run({"x": seen})["y"]
    plain = OrtSession(report.model, optimization="disable").run({"x": seen})["y"]
    expected = OrtSession(module, optimization="disable").run({"x": seen})["y"]
    step = np.ptp(expected) / 100
    assert (default == plain).mean() > 0.98
    assert np.abs(default - plain).max() < step
    if NODES[name][0] != "Softmax":
        assert np.abs(np.clip(default, expected.min(), expected.max()) - expected).mean() < step
    again = raise_quantized(qir.load(report.model))
    assert np.abs(export(again, tmp_path / "again.onnx", profile=profile, data=seen).largest_difference) < step


@pytest.mark.parametrize("profile", ["qcdq", "qoperator"])
def test_a_weight_for_every_batch_entry_with_scales_per_column_runs(profile, tmp_path) -> None:
    module = batched_product()
    calibrated = module.clone()
    pipeline = parse_pipeline("infer-types,insert-fake-quant,calibrate{method=minmax}")
    PassManager(pipeline).run(calibrated, PassContext(calibration_data=samples(1, 1)))
    report = export(calibrated, tmp_path / "node.quant.onnx", profile=profile, data=samples(1, 1))
    default = OrtSession(report.model).run({"x": samples(1, 1)})["y"]
    expected = OrtSession(module, optimization="disable").run({"x": samples(1, 1)})["y"]
    assert np.abs(default - expected).mean() < np.ptp(expected) / 100


@pytest.mark.parametrize("name", ["ceiled, padding counted", "ceiled, valid", "ceiled, same", "no dilation"])
def test_average_pooling_stays_on_codes_where_a_form_is_right(name, tmp_path) -> None:
    module = network(*NODES[name])
    pipeline = parse_pipeline("infer-types,insert-fake-quant,calibrate{method=minmax}")
    PassManager(pipeline).run(module, PassContext(calibration_data=samples(1, 1)))
    report = export(module, tmp_path / "node.quant.onnx", data=samples(1, 1))
    assert "QLinearAveragePool" in report.integer_nodes


def test_the_table_says_of_every_deviation_which_versions_and_what_instead() -> None:
    for kernel in fused_kernels().values():
        assert all((kernel.kernel, kernel.accepts, kernel.computes))
        assert all(deviation.versions and deviation.found for deviation in kernel.deviations)
