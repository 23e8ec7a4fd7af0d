"""A Clip in front of a quantizer goes where the codes clip as well: the layer runs on integers at every width."""

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

import qir
from qir.fake_quant import quantizers
from qir.passes import apply_policy, export, raise_quantized, run_passes


def relu6_network(high: float):
    """Conv → Clip(0, high) → Conv."""
    generator = np.random.default_rng(0)
    weights = [generator.normal(size=shape).astype(np.float32) for shape in ((4, 3, 3, 3), (2, 4, 3, 3))]
    constants = [numpy_helper.from_array(weight, f"w{i}") for i, weight in enumerate(weights)]
    constants += [numpy_helper.from_array(np.float32(bound), name) for name, bound in (("low", 0.0), ("high", high))]
    nodes = [
        helper.make_node("Conv", ["x", "w0"], ["a"], name="first"),
        helper.make_node("Clip", ["a", "low", "high"], ["b"], name="relu6"),
        helper.make_node("Conv", ["b", "w1"], ["y"], name="second"),
    ]
    ends = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)
        for name, shape in (("x", ["N", 3, 8, 8]), ("y", ["N", 2, 4, 4]))
    ]
    graph = helper.make_graph(nodes, "relu6", ends[:1], ends[1:], constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    return qir.load(model.SerializeToString())


def quantized(high: float, bits: int):
    images = np.random.default_rng(1).normal(size=(32, 3, 8, 8)).astype(np.float32)
    module = relu6_network(high)
    steps = "insert-fake-quant{weight_widths=2|4|8,activation_widths=2|4|8},calibrate{method=minmax},fit-bias"
    run_passes(module, steps, data=images)
    free = {name: bits for name, node in quantizers(module.graph).items() if bits in node.widths}
    apply_policy(module, free)
    return module, images


@pytest.mark.parametrize("bits", [2, 4, 8])
def test_layers_in_front_of_relu6_run_on_integers(bits, tmp_path) -> None:
    module, images = quantized(2.0, bits)
    report = export(module, tmp_path / "model.quant.onnx", data=images)
    assert report.integer_nodes.count("QLinearConv") == 2
    assert report.mismatches == 0
    assert not any(node.op == "Clip" and node.name == "relu6" for node in qir.load(report.model).graph)


@pytest.mark.parametrize("bits", [2, 4, 8])
def test_without_the_clip_the_file_reads_back_with_the_same_outputs(bits, tmp_path) -> None:
    from qir.backends.execution.session import OrtSession

    module, images = quantized(2.0, bits)
    first = export(module, tmp_path / "a.onnx", data=images).model
    second = export(raise_quantized(qir.load(first)), tmp_path / "b.onnx", data=images).model
    outputs = [OrtSession(path).run({"x": images})["y"] for path in (first, second)]
    assert np.array_equal(*outputs)


@pytest.mark.named_nodes
def test_a_clip_below_the_outermost_code_stays(tmp_path) -> None:
    module, images = quantized(2.0, 4)
    clip = next(node for node in module.graph if node.name == "relu6")
    high = module.graph.add_constant("lower", qir.Tensor.of(np.float32(1.0)))
    clip.set_input(2, high)
    report = export(module, tmp_path / "model.quant.onnx", data=images)
    assert any(node.name == "relu6" for node in qir.load(report.model).graph)
    assert report.mismatches == 0
