"""Operators of many kinds in both dialects: exported, compared with the integer reference, read back."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

import qir
from qir.fake_quant import policy_of, quantizers
from qir.passes import PassContext, export, raise_quantized, run_passes
from qir.passes.parity.executors import executor


def weight(name, *shape):
    random = np.random.default_rng(sum(map(ord, name)))
    return numpy_helper.from_array((random.normal(size=shape) / 2).astype(np.float32), name)


def given(name, values, dtype=np.float32):
    return numpy_helper.from_array(np.asarray(values, dtype), name)


def node(op, inputs, output, name="", **attributes):
    return helper.make_node(op, inputs, [output], name=name or output, **attributes)


LAST = node("Conv", ["r", "b.weight"], "y", "b")
CASES = {
    "transposed convolution": (
        [
            node("ConvTranspose", ["x", "a.weight", "a.bias"], "a", strides=[2, 2]),
            node("Relu", ["a"], "r"),
            LAST,
        ],
        [weight("a.weight", 3, 4, 3, 3), weight("a.bias", 4), weight("b.weight", 2, 4, 1, 1)],
        [3, 5, 5],
    ),
    "grouped transposed convolution": (
        [node("ConvTranspose", ["x", "a.weight"], "a", group=2), node("Relu", ["a"], "r"), LAST],
        [weight("a.weight", 4, 2, 3, 3), weight("b.weight", 2, 4, 1, 1)],
        [4, 5, 5],
    ),
    "convolution of sequences": (
        [node("Conv", ["x", "a.weight", "a.bias"], "a"), node("Relu", ["a"], "r"), LAST],
        [weight("a.weight", 4, 3, 3), weight("a.bias", 4), weight("b.weight", 2, 4, 1)],
        [3, 9],
    ),
    "products of matrices with a bias": (
        [
            node("MatMul", ["x", "a.weight"], "a"),
            node("Add", ["a", "a.bias"], "ab"),
            node("Relu", ["ab"], "r"),
            node("MatMul", ["r", "b.weight"], "y", "b"),
        ],
        [weight("a.weight", 6, 8), weight("a.bias", 8), weight("b.weight", 8, 3)],
        [4, 6],
    ),
    "attention": (
        [
            node("MatMul", ["x", "q.weight"], "q"),
            node("MatMul", ["x", "k.weight"], "k"),
            node("Transpose", ["k"], "kt", perm=[0, 2, 1]),
            node("MatMul", ["q", "kt"], "s"),
            node("Softmax", ["s"], "p", axis=-1),
            node("MatMul", ["p", "x"], "o"),
            node("MatMul", ["o", "v.weight"], "y", "v"),
        ],
        [weight("q.weight", 6, 8), weight("k.weight", 6, 8), weight("v.weight", 6, 3)],
        [4, 6],
    ),
    "clip": (
        [node("Conv", ["x", "a.weight", "a.bias"], "a"), node("Clip", ["a", "low", "high"], "r"), LAST],
        [
            weight("a.weight", 4, 3, 3, 3),
            weight("a.bias", 4),
            weight("b.weight", 2, 4, 1, 1),
            given("low", 0),
            given("high", 1.1),
        ],
        [3, 9, 9],
    ),
    "one weight in two layers": (
        [
            node("Conv", ["x", "a.weight"], "a", pads=[1] * 4),
            node("Relu", ["a"], "ar"),
            node("Conv", ["ar", "a.weight"], "c", pads=[1] * 4),
            node("HardSwish", ["c"], "r"),
            LAST,
        ],
        [weight("a.weight", 3, 3, 3, 3), weight("b.weight", 2, 3, 1, 1)],
        [3, 9, 9],
    ),
    "leaky, resized, padded": (
        [
            node("Conv", ["x", "a.weight"], "a"),
            node("LeakyRelu", ["a"], "l", alpha=0.1),
            node("Resize", ["l", "", "scales"], "u", mode="nearest"),
            node("Pad", ["u", "pads"], "r"),
            LAST,
        ],
        [
            weight("a.weight", 3, 3, 3, 3),
            weight("b.weight", 2, 3, 1, 1),
            given("scales", [1, 1, 2, 2]),
            given("pads", [0, 0, 1, 1, 0, 0, 1, 1], np.int64),
        ],
        [3, 9, 9],
    ),
    "two products of one value": (
        [
            node("Gemm", ["x", "a.weight", "a.bias"], "a"),
            node("Relu", ["a"], "r"),
            node("Gemm", ["r", "b.weight"], "b"),
            node("Gemm", ["r", "c.weight"], "c", transB=1),
            node("Mul", ["b", "c"], "y"),
        ],
        [weight("a.weight", 6, 8), weight("a.bias", 8), weight("b.weight", 8, 3), weight("c.weight", 3, 8)],
        [6],
    ),
}


def calibrated(case, bits):
    nodes, constants, shape = CASES[case]
    graph = helper.make_graph(
        nodes,
        "operators",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", *shape])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        constants,
    )
    module = qir.load(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8).SerializeToString()
    )
    x = np.random.default_rng(7).normal(size=(16, *shape)).astype(np.float32)
    widths = ",".join(f"{kind}_widths={bits}" for kind in ("input", "weight", "activation"))
    steps = f"infer-types,insert-fake-quant{{{widths}}},calibrate{{method=minmax}}"
    run_passes(module, steps, data=x)
    return module, x[:4]


@pytest.mark.parametrize("profile", ["qonnx", "finn-thresholds"])
@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("bits", [3, 8])
def test_operators(tmp_path, case, profile, bits):
    module, x = calibrated(case, bits)
    report = export(module, tmp_path / "m.quant.onnx", profile=profile, data=x)
    assert (report.reference, report.mismatches) == ("integer reference", 0)
    context = PassContext()
    raised = raise_quantized(qir.load(report.model), context)
    assert not context.reports["raise-quantized"].left
    assert set(quantizers(raised.graph)) == set(quantizers(module.graph))
    np.testing.assert_array_equal(*(executor("torch", each).run({"x": x}).outputs["y"] for each in (module, raised)))


@pytest.mark.parametrize(("weight_bits", "activation_bits"), [(9, 10), (12, 16), (16, 16)])
def test_widths_above_8_bits(tmp_path, quantized_network, weight_bits, activation_bits):
    network, module = quantized_network(
        1, weight_bits, activation_bits, weight_widths="9|12|16", activation_widths="10|16"
    )
    report = export(module, tmp_path / "m.quant.onnx", profile="qonnx", data=network.images())
    assert (report.codes, report.mismatches) == (20, 0)
    raised = raise_quantized(qir.load(report.model))
    assert policy_of(raised.graph) == policy_of(module.graph)
