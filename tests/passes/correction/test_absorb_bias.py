import numpy as np
import pytest

from qir.backends.execution.random_feed import random_feed
from qir.passes import PassContext
from qir.passes.correction.absorb_bias import AbsorbBias
from qir.passes.infrastructure.testing import largest_error, run_onnxruntime
from qir.passes.simplify.fold.batchnorm import FoldBatchNorm


def network(builder, pads=(0, 0, 0, 0)):
    b = builder()
    y = b.node("Conv", [b.input("x", [2, 3, 8, 8]), b.const("w0", np.eye(3)[:, :, None, None])])
    b.const("bn.gamma", np.full(3, 0.1))
    b.const("bn.beta", [2.0, 0.0, 1.0])
    b.const("bn.mean", np.zeros(3))
    b.const("bn.var", np.ones(3))
    y = b.node("BatchNormalization", [y, *(f"bn.{p}" for p in ("gamma", "beta", "mean", "var"))])
    y = b.node("Relu", [y])
    return b.module(b.node("Conv", [y, b.normal("w1", 4, 3, 3, 3)], pads=list(pads)))


def biases(module):
    return [node.input(2).constant.numpy() for node in module.graph if node.op == "Conv" and node.input(2)]


def test_high_biases_move_after_the_relu(builder):
    module = network(builder)
    FoldBatchNorm().run(module, PassContext())
    inputs = {k: np.clip(v, -2.9, 2.9) for k, v in random_feed(module, samples=2, unknown=2).items()}
    before = run_onnxruntime(module, inputs)
    assert AbsorbBias().run(module, PassContext())
    np.testing.assert_allclose(biases(module)[0], [0.3, 0.0, 0.3], atol=1e-6)
    assert largest_error(before, run_onnxruntime(module, inputs)) < 1e-6


@pytest.mark.named_nodes
def test_a_padded_second_layer_is_left_alone(builder):
    module = network(builder, pads=(1, 1, 1, 1))
    FoldBatchNorm().run(module, PassContext())
    context = PassContext()
    assert not AbsorbBias().run(module, context)
    assert "pads with zeros" in context.reports["absorb-bias"]["n_conv0"]


@pytest.mark.named_nodes
def test_statistics_are_measured_where_there_are_none(builder):
    module = network(builder)
    FoldBatchNorm().run(module, PassContext())
    for node in module.graph:
        node.meta.clear()
    context = PassContext()
    assert not AbsorbBias().run(module, context)
    assert "no statistics" in context.reports["absorb-bias"]["n_conv0"]
    data = random_feed(module, samples=64)["x"]
    assert AbsorbBias().run(module, PassContext(calibration_data=data))
    assert biases(module)[0][0] < 0.8
