import numpy as np
import pytest

from qir.backends.execution.random_feed import random_feed
from qir.passes import PassContext
from qir.passes.analysis.layers import layer_at
from qir.passes.correction.equalize_weights import EqualizeWeights
from qir.passes.infrastructure.testing import largest_error, run_onnxruntime
from qir.passes.simplify.fold.batchnorm import FoldBatchNorm


def spread(b, name, *shape, axis=0):
    """A weight whose channels have very different ranges."""
    scale = np.logspace(-1, 1, shape[axis]).reshape([-1 if i == axis else 1 for i in range(len(shape))])
    return b.const(name, np.random.default_rng(3).standard_normal(shape) * scale)


def mobile(builder, activation="Relu", **attributes):
    """Convolution → depthwise → pointwise, activations in between."""
    b = builder()
    y = b.node("Conv", [b.input("x", [2, 3, 8, 8]), spread(b, "w0", 8, 3, 3, 3), b.normal("b0", 8)])
    y = b.node(activation, [y], **attributes)
    y = b.node("Conv", [y, spread(b, "w1", 8, 1, 3, 3), b.normal("b1", 8)], group=8, pads=[1, 1, 1, 1])
    y = b.node(activation, [y], **attributes)
    return b.module(b.node("Conv", [y, spread(b, "w2", 4, 8, 1, 1, axis=1)]))


def layers(module):
    return [layer_at(node) for node in module.graph if node.op in {"Conv", "Gemm", "MatMul"}]


def test_ranges_meet_and_outputs_stay(builder):
    module = mobile(builder)
    inputs = random_feed(module, samples=2, unknown=2)
    before = run_onnxruntime(module, inputs)
    assert EqualizeWeights().run(module, PassContext())
    after = run_onnxruntime(module, inputs)
    assert largest_error(before, after) < 2e-6
    for first, second in zip(layers(module), layers(module)[1:], strict=False):
        ratio = first.output_magnitudes() / second.input_magnitudes()
        assert ratio.max() < 1.01
        assert ratio.min() > 0.99


@pytest.mark.named_nodes
def test_relu6_is_left_alone_and_listed(builder):
    module = mobile(builder, "HardSigmoid", alpha=0.2)
    version = module.version
    context = PassContext()
    assert not EqualizeWeights().run(module, context)
    assert module.version == version
    assert "HardSigmoid" in context.reports["equalize-weights"]["n_conv0"]


def test_relu6_becomes_relu_where_it_is_asked_for(builder):
    b = builder()
    b.const("zero", 0.0), b.const("big", 1e6)
    y = b.node("Conv", [b.input("x", [2, 3, 8, 8]), spread(b, "w0", 8, 3, 3, 3)])
    y = b.node("Clip", [y, "zero", "big"])
    y = b.node("Clip", [b.node("Conv", [y, spread(b, "w1", 8, 8, 1, 1)]), "zero", "big"])
    module = b.module(b.node("Sigmoid", [y]))
    inputs = random_feed(module, samples=2, unknown=2)
    before = run_onnxruntime(module, inputs)
    assert not EqualizeWeights().run(module, PassContext())
    assert EqualizeWeights(relu6="relu").run(module, PassContext())
    assert [node.op for node in module.graph] == ["Conv", "Relu", "Conv", "Clip", "Sigmoid"]
    assert largest_error(before, run_onnxruntime(module, inputs)) < 2e-6


def test_several_takers_share_one_scale(builder):
    b = builder()
    y = b.node("Conv", [b.input("x", [2, 3, 8, 8]), spread(b, "w0", 8, 3, 3, 3)])
    y = b.node("MaxPool", [b.node("LeakyRelu", [y])], kernel_shape=[2, 2])
    module = b.module(
        b.node("Conv", [y, spread(b, "w1", 4, 8, 1, 1)]), b.node("ConvTranspose", [y, spread(b, "w2", 8, 4, 3, 3)])
    )
    inputs = random_feed(module, samples=2, unknown=2)
    before = run_onnxruntime(module, inputs)
    assert EqualizeWeights().run(module, PassContext())
    assert largest_error(before, run_onnxruntime(module, inputs)) < 2e-6


def test_a_residual_branch_is_left_alone(builder):
    b = builder()
    y = b.node("Conv", [b.input("x", [2, 8, 8, 8]), spread(b, "w0", 8, 8, 1, 1)])
    module = b.module(b.node("Add", [y, b.node("Conv", [y, spread(b, "w1", 8, 8, 1, 1)])]))
    assert not EqualizeWeights().run(module, PassContext())


@pytest.mark.parametrize(("op", "shape"), [("Gemm", (8, 5)), ("MatMul", (8, 5))])
def test_dense_layers(builder, op, shape):
    b = builder()
    y = b.node(op, [b.input("x", [3, 4]), spread(b, "w0", 4, 8, axis=1)])
    y = b.node("Relu", [y])
    module = b.module(b.node(op, [y, spread(b, "w1", *shape)]))
    inputs = random_feed(module, samples=2, unknown=2)
    before = run_onnxruntime(module, inputs)
    assert EqualizeWeights().run(module, PassContext())
    assert largest_error(before, run_onnxruntime(module, inputs)) < 2e-6


def test_dead_channels_stay_finite(builder):
    b = builder()
    weight = np.ones((4, 2, 1, 1))
    weight[1] = 0
    y = b.node("Relu", [b.node("Conv", [b.input("x", [1, 2, 4, 4]), b.const("w0", weight)])])
    module = b.module(b.node("Conv", [y, spread(b, "w1", 3, 4, 1, 1, axis=1)]))
    EqualizeWeights().run(module, PassContext())
    assert all(np.isfinite(layer.weight).all() for layer in layers(module))


def test_statistics_of_batchnorm_follow_the_scales(builder):
    b = builder()
    y = b.bn(b.node("Conv", [b.input("x", [2, 3, 8, 8]), spread(b, "w0", 8, 3, 3, 3)]), 8)
    y = b.node("Relu", [y])
    module = b.module(b.node("Conv", [y, spread(b, "w1", 4, 8, 1, 1)]))
    FoldBatchNorm().run(module, PassContext())
    mean, deviation = layers(module)[0].node.meta["preactivation"]
    before = layers(module)[0].bias
    EqualizeWeights().run(module, PassContext())
    new_mean, new_deviation = layers(module)[0].node.meta["preactivation"]
    ratio = layers(module)[0].bias / before
    np.testing.assert_allclose(new_mean / mean, ratio, rtol=1e-5)
    np.testing.assert_allclose(new_deviation / deviation, ratio, rtol=1e-5)
