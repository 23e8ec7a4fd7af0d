"""Networks as ONNX Runtime saves them after its own optimizations: operators on codes, channels last."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

import qir
from qir.backends.execution.session import OrtSession
from qir.fake_quant import quantizers
from qir.passes import PassContext, export, raise_quantized
from qir.passes.parity.executors import ReferenceNetwork


@pytest.mark.parametrize("seed", [0, 1, 3])
def test_a_network_that_onnxruntime_optimized_comes_back(quantized_network, tmp_path, seed):
    network, module = quantized_network(seed, 8, 8, size=16)
    report = export(module, tmp_path / "m.quant.onnx", data=network.images())
    OrtSession(report.model, save_optimized=tmp_path / "optimized.onnx")
    saved = qir.load(tmp_path / "optimized.onnx")
    assert any(node.attribute("channels_last", 0) for node in saved.graph)
    context = PassContext()
    raise_quantized(saved, context)
    assert not context.reports["raise-quantized"].left
    assert not {node.op for node in saved.graph} & {"QLinearConv", "NhwcMaxPool", "QGemm", "QLinearAdd"}
    weights = {node.name: node for node in saved.graph.fake_quants() if node.operands[0].is_constant}
    assert len(weights) == sum(node.operands[0].is_constant for node in module.graph.fake_quants())
    feeds = {"input": network.images()}
    reference = ReferenceNetwork(saved)
    found, kind = reference.run(feeds).outputs, reference.kind
    assert kind == "integer reference"
    for name, array in OrtSession(report.model).run(feeds).items():
        np.testing.assert_array_equal(found[name], array)


def test_where_on_codes():
    arrays = {
        "s": np.float32(0.1),
        "z": np.array(128, np.uint8),
        "c": np.random.default_rng(0).integers(0, 2, (3, 4)).astype(bool),
    }
    nodes = [helper.make_node("QuantizeLinear", [x, "s", "z"], [f"{x}q"], name=f"{x}.quantize") for x in ("x", "w")]
    operands = ["c", "xq", "s", "z", "wq", "s", "z", "s", "z"]
    nodes += [
        helper.make_node("QLinearWhere", operands, ["yq"], domain="com.microsoft", name="where"),
        helper.make_node("DequantizeLinear", ["yq", "s", "z"], ["y"]),
    ]
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, [3, 4]) for name in ("x", "w")],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [3, 4])],
        [numpy_helper.from_array(np.asarray(array), name) for name, array in arrays.items()],
    )
    opsets = [helper.make_opsetid("", 13), helper.make_opsetid("com.microsoft", 1)]
    module = qir.load(helper.make_model(graph, opset_imports=opsets, ir_version=8).SerializeToString())
    feeds = {name: np.random.default_rng(i).normal(size=(3, 4)).astype(np.float32) for i, name in enumerate("xw")}
    expected = OrtSession(module, optimization="disable").run(feeds)["y"]
    context = PassContext()
    raise_quantized(module, context)
    assert not context.reports["raise-quantized"].left
    assert "Where" in {node.op for node in module.graph}
    assert {"x", "w"} <= {name.removesuffix(".quantize") for name in quantizers(module.graph)}
    found = ReferenceNetwork(module).run(feeds).outputs
    np.testing.assert_array_equal(found["y"], expected)
