import numpy as np
import pytest

import qir
from qir.backends.execution.random_feed import random_feed
from qir.passes import PassContext, export, run_passes
from qir.passes.analysis.arithmetic.layer import LayerArithmetic
from qir.passes.analysis.quantized_layers import quantized_layers
from qir.passes.correction.fit_bias import FitBias


def network(builder, tiny):
    b = builder()
    weight = np.random.default_rng(0).standard_normal((4, 3, 3, 3))
    weight[1] *= tiny
    y = b.node("Conv", [b.input("x", [4, 3, 8, 8]), b.const("conv.weight", weight), b.const("conv.bias", [1, 7, 1, 1])])
    return b.module(b.node("Relu", [y]))


def calibrated(builder, tiny):
    module = network(builder, tiny)
    pipeline = "infer-types,insert-fake-quant,calibrate{method=minmax}"
    data = random_feed(module, samples=2, unknown=2)["x"]
    run_passes(module, pipeline, data=data)
    return module, data


@pytest.mark.parametrize("tiny", [1e-9, 1e-25, 0.0])
def test_a_dead_channel_gets_a_range_that_its_bias_fits(builder, tmp_path, tiny):
    module, data = calibrated(builder, tiny)
    FitBias().run(module, PassContext())
    (layer,) = quantized_layers(module.graph)
    codes = LayerArithmetic.of(layer).bias.values
    assert np.abs(codes).max() <= 2**30 * 1.001
    assert not FitBias().run(module, PassContext())
    export(module, tmp_path / "q.onnx", profile="qcdq", data=data)
    assert qir.load(tmp_path / "q.onnx").graph.outputs


def test_a_live_layer_keeps_its_ranges(builder):
    module, _ = calibrated(builder, 1.0)
    version = module.version
    assert not FitBias().run(module, PassContext())
    assert module.version == version
