"""TensorFlow's networks, channels last, become networks of layers without Transposes between them."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

import qir
from qir import quantize
from qir.onnx_io import to_bytes
from qir.passes import PassManager, parse_pipeline
from qir.passes.infrastructure.instruments import VerifyEach
from qir.passes.simplify.canonicalize import SIMPLIFY

FIRST, LAST = [0, 3, 1, 2], [0, 2, 3, 1]


class Network:
    """A network whose data has its channels last, as tf2onnx writes it."""

    def __init__(self):
        self.nodes, self.constants, self.random = [], [], np.random.default_rng(0)

    def constant(self, *shape):
        name = f"c{len(self.constants)}"
        values = self.random.standard_normal(shape).astype(np.float32) * np.float32(0.4)
        self.constants.append(numpy_helper.from_array(values, name))
        return name

    def op(self, op, *inputs, **attributes):
        name = f"{op}{len(self.nodes)}"
        self.nodes.append(helper.make_node(op, inputs, [name], name=f"{name}.node", **attributes))
        return name

    def conv(self, value, into, out):
        """Transpose, Conv, Transpose: the bias stands after, channels last."""
        first = self.op("Transpose", value, perm=FIRST)
        made = self.op("Conv", first, self.constant(out, into, 3, 3), pads=[1, 1, 1, 1])
        return self.op("Transpose", made, perm=LAST)

    def biased(self, value, into, out, op="Add"):
        return self.op(op, self.conv(value, into, out), self.constant(out))

    def file(self, output, path):
        graph = helper.make_graph(
            self.nodes,
            "g",
            [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 8, 8, 3])],
            [helper.make_tensor_value_info(output, TensorProto.FLOAT, None)],
            self.constants,
        )
        onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 16)], ir_version=8), path)
        return path


def plain(n):
    hidden = n.op("Relu", n.biased("x", 3, 6))
    return n.biased(hidden, 6, 5)


def residual(n):
    first = n.op("Relu", n.biased("x", 3, 6))
    branch = n.op("Relu", n.biased(first, 6, 6))
    return n.op("Relu", n.op("Add", n.biased(branch, 6, 6), first))


def scaled(n):
    """Batch normalization as Mul and Add, and activations with constants of their own."""
    hidden = n.op("Add", n.op("Mul", n.conv("x", 3, 6), n.constant(6)), n.constant(6))
    hidden = n.op("PRelu", hidden, n.constant(1, 1, 6))
    return n.op("Sigmoid", n.biased(n.op("Sub", n.constant(6), hidden), 6, 4))


def positions(n):
    """A constant that differs from place to place stays an Add."""
    hidden = n.op("Add", n.conv("x", 3, 6), n.constant(8, 8, 6))
    return n.biased(n.op("Relu", hidden), 6, 4)


CASES = {
    plain: ["Transpose", "Conv", "Relu", "Conv", "Transpose"],
    residual: ["Transpose", "Conv", "Relu", "Conv", "Relu", "Conv", "Add", "Relu", "Transpose"],
    scaled: ["Transpose", "Conv", "PRelu", "Sub", "Conv", "Sigmoid", "Transpose"],
    positions: ["Transpose", "Conv", "Add", "Relu", "Conv", "Transpose"],
}


@pytest.mark.parametrize("network", CASES, ids=lambda made: made.__name__)
def test_transposes_cancel_and_biases_go_into_the_layers(network, tmp_path):
    made = Network()
    file = made.file(network(made), tmp_path / "tf.onnx")
    module = qir.load(file)
    PassManager(parse_pipeline(SIMPLIFY), [VerifyEach()]).run(module)
    assert [node.op for node in module.graph] == CASES[network]
    data = np.random.default_rng(1).standard_normal((2, 8, 8, 3)).astype(np.float32)
    providers = ["CPUExecutionProvider"]
    (expected,) = onnxruntime.InferenceSession(file, providers=providers).run(None, {"x": data})
    (found,) = onnxruntime.InferenceSession(to_bytes(module), providers=providers).run(None, {"x": data})
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


def test_a_transpose_that_another_node_reads_is_not_doubled(tmp_path):
    made = Network()
    hidden = made.conv("x", 3, 6)
    summed = made.op("Concat", made.op("Relu", hidden), made.op("Sigmoid", hidden), axis=3)
    module = qir.load(made.file(summed, tmp_path / "tf.onnx"))
    PassManager(parse_pipeline(SIMPLIFY), [VerifyEach()]).run(module)
    assert [node.op for node in module.graph].count("Transpose") == 2


def test_both_layers_of_a_network_with_channels_last_run_on_integers(tmp_path):
    made = Network()
    file = made.file(plain(made), tmp_path / "tf.onnx")
    data = np.random.default_rng(1).standard_normal((8, 8, 8, 3)).astype(np.float32)
    done = quantize(file, target="npu-148", data=data, output=tmp_path / "q.onnx")
    assert done.written.integer_nodes == ("QLinearConv", "QLinearConv")
    assert not done.left_float
    assert done.written.mismatches == 0
