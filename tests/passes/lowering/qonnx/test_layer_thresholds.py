"""Thresholds against brute force and against ONNX Runtime's own kernels, at every boundary."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from qir.backends.execution.session import OrtSession
from qir.errors import ExportError
from qir.passes.analysis.arithmetic.layer import LayerArithmetic
from qir.passes.analysis.quantized_layers import quantized_layers
from qir.passes.lowering.qonnx.thresholds import (
    Thresholds,
    dyadic_requantize,
    float32_requantize,
    integer_thresholds,
    layer_thresholds,
    plain_requantize,
    value_thresholds,
)
from qir.quantizers import get_scheme
from qir.tensor import Tensor

SCALES = st.floats(2**-12, 2**3, width=32)


def brute(requantize, low, high, sums):
    """Every threshold by trying every sum."""
    codes = np.clip(requantize(np.arange(sums[0], sums[1] + 1)[None]), low, high)[0]
    return [
        sums[0] + int(np.argmax(codes >= k)) if (codes >= k).any() else sums[1] + 1 for k in range(low + 1, high + 1)
    ]


@settings(deadline=None, max_examples=60)
@given(SCALES, st.integers(0, 15), st.integers(1, 4), st.sampled_from(["float32", "plain", "dyadic"]))
def test_every_sum_gets_the_code_of_the_arithmetic(scale, zero_point, bits, arithmetic):
    sums, low, high = (-600, 700), 0, 2**bits - 1
    one, out = np.float32(scale), np.float32(0.37)
    requantize = {
        "float32": float32_requantize(np.atleast_1d(one / out), zero_point),
        "plain": plain_requantize(np.atleast_1d(one), out, zero_point),
        "dyadic": dyadic_requantize(np.float32(1), np.atleast_1d(one), out, zero_point),
    }[arithmetic]
    values, signs = integer_thresholds(requantize, 1, (low, high), sums)
    assert signs.tolist() == [1]
    assert values[0].tolist() == brute(requantize, low, high, sums)


@settings(deadline=None, max_examples=60)
@given(st.lists(st.floats(-4, 4, width=32), min_size=1, max_size=5), st.integers(-3, 9))
def test_multipliers_of_any_sign_and_zero(multipliers, zero_point):
    factor, sums, low, high = np.asarray(multipliers, np.float32), (-50, 50), 0, 7
    requantize = float32_requantize(factor, zero_point)
    found = Thresholds(*integer_thresholds(requantize, len(factor), (low, high), sums), low, np.zeros(1, np.int64))
    every = np.broadcast_to(np.arange(sums[0], sums[1] + 1), (len(factor), 101))
    np.testing.assert_array_equal(found.codes(every), np.clip(requantize(every), low, high))
    assert (found.signs < 0).tolist() == [
        bool((requantize(every[:1])[:, 0] > requantize(every[:1])[:, -1]).any())
        for requantize in [float32_requantize(m[None], zero_point) for m in factor]
    ]


@settings(deadline=None, max_examples=80)
@given(SCALES, SCALES, st.integers(-300, 300), st.integers(-(2**20), 2**20))
def test_dyadic_requantization_rounds_the_exact_quotient_half_to_even(scale, out, zero_point, total):
    exact = Fraction(float(np.float32(scale))) * total / Fraction(float(np.float32(out)))
    found = int(
        dyadic_requantize(np.float32(1), np.float32([scale]), np.float32(out), zero_point)(np.array([[total]]))[0, 0]
    )
    if abs(exact) < 2**20 and abs(exact * 2 - round(exact * 2)) > Fraction(1, 2**6):
        assert found == round(exact) + zero_point
    assert abs(found - zero_point - round(exact)) <= 1 + abs(exact) * Fraction(1, 2**30)


def kernel(scale_x, scale_w, scale_y, zero_point, sums, dtype):
    """Codes of ONNX Runtime's QLinearConv whose sums are its int32 biases, one a channel."""
    code_type = helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
    count, zero = len(sums), helper.make_tensor("zw", TensorProto.INT8, [], [0])
    arrays = {
        "sx": np.float32(scale_x), "zx": np.array(0, dtype), "w": np.zeros((count, 1, 1, 1), np.int8),
        "sw": np.float32(scale_w), "sy": np.float32(scale_y), "zy": np.array(zero_point, dtype),
        "b": np.asarray(sums, np.int32),
    }  # fmt: skip
    node = helper.make_node("QLinearConv", ["x", "sx", "zx", "w", "sw", "zw", "sy", "zy", "b"], ["y"])
    graph = helper.make_graph(
        [node], "g", [helper.make_tensor_value_info("x", code_type, [1, 1, 1, 1])],
        [helper.make_tensor_value_info("y", code_type, [1, count, 1, 1])],
        [numpy_helper.from_array(np.asarray(a), n) for n, a in arrays.items()] + [zero],
    )  # fmt: skip
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    x = np.zeros((1, 1, 1, 1), dtype)
    return OrtSession(model.SerializeToString()).run({"x": x})["y"].reshape(-1).astype(int)


def linear(scale, scale_y, zero_point, sums, dtype):
    """Codes of DequantizeLinear of int32 sums, then QuantizeLinear, by ONNX Runtime without optimizations."""
    arrays = {"s": np.float32(scale), "sy": np.float32(scale_y), "zy": np.array(zero_point, dtype)}
    nodes = [
        helper.make_node("DequantizeLinear", ["a", "s"], ["r"]),
        helper.make_node("QuantizeLinear", ["r", "sy", "zy"], ["y"]),
    ]
    graph = helper.make_graph(
        nodes, "g", [helper.make_tensor_value_info("a", TensorProto.INT32, [len(sums)])],
        [helper.make_tensor_value_info("y", helper.np_dtype_to_tensor_dtype(np.dtype(dtype)), [len(sums)])],
        [numpy_helper.from_array(np.asarray(a), n) for n, a in arrays.items()],
    )  # fmt: skip
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    onnx.checker.check_model(model)
    return (
        OrtSession(model.SerializeToString(), optimization="disable")
        .run({"a": np.asarray(sums, np.int32)})["y"]
        .astype(int)
    )


def around(values):
    """Each threshold and its neighbours inside int32, with the code that each has."""
    reached = [v for v in values.tolist() if -(2**31) < v < 2**31]
    return np.array([[v - 1, v] for v in reached], np.int64).reshape(-1)


@settings(deadline=None, max_examples=25)
@given(SCALES, SCALES, st.floats(2**-9, 2**3, width=32), st.integers(0, 255), st.booleans())
def test_boundaries_are_those_of_onnxruntimes_fused_kernel(scale_x, scale_w, scale_y, zero_point, signed):
    dtype, low = (np.int8, -128) if signed else (np.uint8, 0)
    zero_point += low
    product = np.float32(np.float32(scale_x) * np.float32(scale_w))
    multiplier = np.atleast_1d(product / np.float32(scale_y)).astype(np.float32)
    values, _ = integer_thresholds(float32_requantize(multiplier, zero_point), 1, (low, low + 255))
    sums = around(values[0])
    if sums.size:
        expected = np.searchsorted(values[0], sums, side="right") + low
        np.testing.assert_array_equal(kernel(scale_x, scale_w, scale_y, zero_point, sums, dtype), expected)


@settings(deadline=None, max_examples=25)
@given(SCALES, st.floats(2**-9, 2**3, width=32), st.integers(0, 255), st.sampled_from([np.uint8, np.int8]))
def test_boundaries_are_those_of_quantize_linear(scale, scale_y, zero_point, dtype):
    low = int(np.iinfo(dtype).min)
    requantize = plain_requantize(np.atleast_1d(np.float32(scale)), np.float32(scale_y), zero_point + low)
    values, _ = integer_thresholds(requantize, 1, (low, low + 255))
    sums = around(values[0])
    if sums.size:
        expected = np.searchsorted(values[0], sums, side="right") + low
        np.testing.assert_array_equal(linear(scale, scale_y, zero_point + low, sums, dtype), expected)


@settings(deadline=None, max_examples=60)
@given(SCALES, st.integers(1, 8), st.booleans(), st.integers(0, 255))
def test_thresholds_of_a_quantizer_on_real_values(scale, bits, signed, where):
    scheme = get_scheme("uniform" if bits == 1 else "uniform-step")
    if bits == 1:
        pair = [-scale, scale] if signed else [0, scale]
    else:
        low = 0 if not signed else -(2 ** (bits - 1))
        pair = [low - (where % 2**bits + low), scale]
    grid = scheme.parameters(np.float32([pair]), bits, signed)
    (found,) = value_thresholds(grid)
    assert found.shape == (grid.codes - 1,)
    below = np.nextafter(found, np.float32(-np.inf))
    expected = grid.low_code + grid.code_step * np.arange(1, grid.codes)
    np.testing.assert_array_equal(scheme.quantize(found, grid), expected)
    np.testing.assert_array_equal(scheme.quantize(below, grid), expected - grid.code_step)


@pytest.mark.parametrize("arithmetic", ["float32", "plain", "dyadic"])
@pytest.mark.parametrize("bits", [1, 4, 8])
def test_layers_of_a_network_with_their_activation_and_bias(quantized_network, arithmetic, bits):
    _, module = quantized_network(1, bits, bits)
    layers = [layer for layer in quantized_layers(module.graph) if layer.output is not None]
    assert len(layers) >= 3
    for layer in layers:
        found = layer_thresholds(LayerArithmetic.of(layer), arithmetic)
        assert (np.diff(found.values, axis=1) >= 0).all()
        assert (found.signs == 1).all()
        assert found.bias.size == found.values.shape[0]
        codes = found.codes(np.tile(np.arange(-500, 500, 7), (len(found.values), 1)))
        assert codes.min() >= found.low_code


def test_dead_channels_have_one_code(quantized_network):
    _, module = quantized_network(1, 8, 8)
    layer = next(layer for layer in quantized_layers(module.graph) if layer.output is not None)
    assert layer.bias is not None
    bias = np.array(layer.bias.constant.numpy())
    bias[0] = 1e-3
    layer.bias.constant = Tensor.of(bias)
    weight = np.array(layer.weight_tensor.numpy())
    weight[0] = 0
    quantizer = layer.weight
    quantizer.source.constant = Tensor.of(weight)
    ranges = np.array(quantizer.calibration)
    ranges[:, 0] = 0
    quantizer.calibration = ranges
    found = layer_thresholds(LayerArithmetic.of(layer))
    reachable = found.codes(np.broadcast_to(found.bias[:, None], (len(found.values), 1)))
    assert reachable[0, 0] == max(round(1e-3 / float(layer_scale(layer))), 0)


def layer_scale(layer):
    return layer.output.grid().scale[0]


def test_a_layer_without_output_grid_is_refused(quantized_network):
    _, module = quantized_network(0, 8, 8)
    layer = next(iter(quantized_layers(module.graph)))
    with pytest.raises(ExportError, match="output quantizer"):
        layer_thresholds(LayerArithmetic.of(replace(layer, output=None)))
