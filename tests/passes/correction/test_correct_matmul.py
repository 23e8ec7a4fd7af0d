"""Correction of matrix products over sequences: a gain per column, an offset in the Add after, or none."""

import numpy as np
import pytest

import qir
from qir.fake_quant import quantizers
from qir.passes import PassContext, PassManager, apply_policy, parse_pipeline
from qir.passes.correction.correct import CorrectChannels


def network(*, bias: bool, second_input: bool):
    from onnx import TensorProto, helper, numpy_helper

    generator = np.random.default_rng(0)
    weight, vector = generator.normal(size=(8, 6)), generator.normal(size=6)
    inputs = [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["B", 5, 8])]
    nodes, last = [], "x"
    if second_input:
        inputs.append(helper.make_tensor_value_info("other", TensorProto.FLOAT, ["B", 5, 8]))
        nodes.append(helper.make_node("Add", ["x", "other"], ["sum"], name="join"))
        last = "sum"
    nodes.append(helper.make_node("MatMul", [last, "w"], ["product"], name="product"))
    if bias:
        nodes.append(helper.make_node("Add", ["product", "b"], ["y"], name="bias"))
    else:
        nodes.append(helper.make_node("Identity", ["product"], ["y"], name="end"))
    constants = [numpy_helper.from_array(weight.astype(np.float32), "w")]
    constants += [numpy_helper.from_array(vector.astype(np.float32), "b")] if bias else []
    output = helper.make_tensor_value_info("y", TensorProto.FLOAT, ["B", 5, 6])
    graph = helper.make_graph(nodes, "sequence", inputs, [output], constants)
    return qir.load(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9).SerializeToString()
    )


def outputs(module, feeds):
    from qir.backends.execution.session import OrtSession
    from qir.passes.lowering.lower_float import LowerFloat

    lowered = module.clone()
    if quantizers(lowered.graph):
        PassManager([LowerFloat()]).run(lowered)
    return OrtSession(lowered).run(feeds)["y"]


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("second_input", [True, False])
def test_a_sequence_is_corrected_channel_by_channel(bias, second_input) -> None:
    generator = np.random.default_rng(1)
    module = network(bias=bias, second_input=second_input)
    names = ("x", "other") if second_input else ("x",)
    feeds = {name: (generator.normal(size=(64, 5, 8)) + 0.5).astype(np.float32) for name in names}
    wanted = outputs(module, feeds)
    context = PassContext(calibration_data=[feeds])
    steps = "insert-fake-quant{weight_widths=2|8,activation_widths=8},calibrate{weights=minmax}"
    PassManager(parse_pipeline(steps)).run(module, context)
    apply_policy(module, {name: 2 for name in quantizers(module.graph) if name.endswith(".weight")})
    before = np.square(outputs(module, feeds) - wanted).mean()
    PassManager([CorrectChannels()]).run(module, context)
    assert np.square(outputs(module, feeds) - wanted).mean() < before
