"""FINN-ONNX as other tools write it: MultiThreshold, Add, Mul; annotated integer weights."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import qir
from qir.backends.qonnx.reference import QonnxReference
from qir.fake_quant import FakeQuant, quantizers
from qir.ops.families.qonnx import QONNX_DOMAIN
from qir.passes import PassContext, raise_quantized


def model(thresholds, *, scale, bias, attributes=None, tail=True):
    """x → MatMul of annotated INT4 weights → MultiThreshold → Add → Mul, as FINN's conversion leaves it."""
    random = np.random.default_rng(0)
    arrays = {
        "w": random.integers(-7, 8, (6, 5)).astype(np.float32),
        "t": np.asarray(thresholds, np.float32),
        "b": np.float32(bias),
        "s": np.float32(scale),
    }
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["m"], name="fc"),
        helper.make_node(
            "MultiThreshold", ["m", "t"], ["c"], domain=QONNX_DOMAIN, name="act", out_dtype="INT4", **(attributes or {})
        ),
    ]
    if tail:
        nodes += [helper.make_node("Add", ["c", "b"], ["a"]), helper.make_node("Mul", ["a", "s"], ["y"])]
    graph = helper.make_graph(
        nodes,
        "finn",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [40, 6])],
        [helper.make_tensor_value_info("y" if tail else "c", TensorProto.FLOAT, [40, 5])],
        [numpy_helper.from_array(np.asarray(a), n) for n, a in arrays.items()],
        value_info=[helper.make_tensor_value_info("m", TensorProto.FLOAT, [40, 5])],
    )
    entry = onnx.TensorAnnotation(tensor_name="w")
    entry.quant_parameter_tensor_names.add(key="finn_datatype", value="INT4")
    graph.quantization_annotation.append(entry)
    opsets = [helper.make_opsetid("", 13), helper.make_opsetid(QONNX_DOMAIN, 1)]
    return qir.load(helper.make_model(graph, opset_imports=opsets, ir_version=8).SerializeToString())


def simulated(module, x):
    """The raised network on fake-quant nodes, in numpy."""
    names = quantizers(module.graph)
    weight = names["w"].source.constant.numpy()
    node = next(n for name, n in names.items() if name != "w")
    return node.scheme(node.bits).fake_quantize(x @ weight, node.grid(), node.granularity.axis)


@pytest.mark.parametrize(
    ("bits", "signed", "scale"),
    [(4, True, 0.37), (4, False, 1.5), (2, True, [0.25, 0.5, 0.75, 1.0, 2.0]), (8, True, 0.1), (3, False, 1.0)],
)
def test_equal_steps_come_back_as_a_quantizer(bits, signed, scale):
    steps = np.atleast_1d(np.asarray(scale, np.float64))[:, None]
    low = -(2 ** (bits - 1)) if signed else 0
    thresholds = (low + np.arange(2**bits - 1) + 0.5) * steps
    module = model(thresholds, scale=scale, bias=low)
    x = np.random.default_rng(1).normal(size=(40, 6)).astype(np.float32)
    expected = QonnxReference(module).run({"x": x}).outputs["y"]
    context = PassContext()
    raise_quantized(module, context)
    assert not context.reports["raise-quantized"].left
    assert [node.op for node in module.graph] == ["fake_quant", "MatMul", "fake_quant"]
    assert {FakeQuant(node).bits for node in module.graph.fake_quants()} == {4, bits}
    np.testing.assert_array_equal(simulated(module, x), expected)


def test_scale_and_bias_of_the_node_itself():
    attributes = {"out_scale": 2.0, "out_bias": -1.0}
    module = model([[0.0]], scale=1, bias=0, attributes=attributes, tail=False)
    x = np.random.default_rng(1).normal(size=(40, 6)).astype(np.float32)
    expected = QonnxReference(module).run({"x": x}).outputs["c"]
    raise_quantized(module)
    node = quantizers(module.graph)["act"]
    assert (node.bits, node.signed) == (1, 1)
    np.testing.assert_array_equal(simulated(module, x), expected)


@pytest.mark.parametrize(
    ("thresholds", "reason"),
    [([[0.5, 1.5, 7.0]], "equal steps"), ([[0.5, 1.5]], "whole number of bits")],
)
def test_other_thresholds_are_left_with_a_reason(thresholds, reason):
    module = model(thresholds, scale=1.0, bias=0)
    context = PassContext()
    raise_quantized(module, context)
    assert reason in context.reports["raise-quantized"].left["act"]
    assert "MultiThreshold" in {node.op for node in module.graph}
    assert set(quantizers(module.graph)) == {"w"}
