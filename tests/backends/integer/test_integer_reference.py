"""Kernels of the integer reference on single nodes, against ONNX's own definition of the operator."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

import qir
import qir.models
from qir.backends.execution.session import OrtSession
from qir.backends.integer.reference import IntegerReference
from qir.errors import DataError, QirError


def model(nodes, shape, constants, outputs=("y",), element=TensorProto.UINT8):
    graph = helper.make_graph(
        nodes,
        "one",
        [helper.make_tensor_value_info("x", element, shape)],
        [helper.make_tensor_value_info(name, onnx.TensorProto.UINT8, None) for name in outputs],
        [numpy_helper.from_array(np.asarray(array), name) for name, array in constants.items()],
    )
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    return qir.load(made.SerializeToString())


def single(op, attributes, shape, constants, extra=(), scales=(0.05, 0.03), zeros=(3, 7)):
    """DequantizeLinear → op → QuantizeLinear."""
    nodes = [
        helper.make_node("DequantizeLinear", ["x", "sx", "zx"], ["dx"]),
        *(
            helper.make_node("DequantizeLinear", [f"{n}_q", f"{n}_s"], [n], axis=axis)
            for n, axis in extra
            if f"{n}_q" in constants
        ),
        helper.make_node(op, ["dx", *(n for n, _ in extra)], ["r"], name="node", **attributes),
        helper.make_node("QuantizeLinear", ["r", "sy", "zy"], ["y"]),
    ]
    grid = {
        "sx": np.float32(scales[0]),
        "zx": np.uint8(zeros[0]),
        "sy": np.float32(scales[1]),
        "zy": np.uint8(zeros[1]),
    }
    return model(nodes, shape, constants | grid)


def codes(*shape, seed=0, low=0, high=256, dtype=np.uint8):
    return np.random.default_rng(seed).integers(low, high, shape).astype(dtype)


CASES = {
    "strided convolution": ("Conv", {"strides": [2, 2], "pads": [1, 0, 1, 2]}, (2, 4, 9, 9), (5, 4, 3, 3), 0),
    "dilated groups": ("Conv", {"group": 2, "dilations": [2, 1]}, (2, 4, 9, 9), (6, 2, 3, 3), 0),
    "same upper": ("Conv", {"auto_pad": "SAME_UPPER", "strides": [2, 2]}, (1, 3, 8, 7), (2, 3, 3, 3), 0),
    "one dimension": ("Conv", {"pads": [1, 1]}, (2, 3, 12), (4, 3, 3), 0),
    "transposed": (
        "ConvTranspose",
        {"strides": [2, 2], "pads": [1, 1, 0, 0], "output_padding": [1, 0]},
        (2, 3, 5, 5),
        (3, 4, 3, 3),
        1,
    ),
    "transposed, same upper": (
        "ConvTranspose",
        {"strides": [2, 2], "auto_pad": "SAME_UPPER"},
        (1, 3, 5, 4),
        (3, 4, 3, 3),
        1,
    ),
    "transposed, same lower": (
        "ConvTranspose",
        {"strides": [2, 3], "auto_pad": "SAME_LOWER"},
        (1, 3, 5, 4),
        (3, 4, 3, 5),
        1,
    ),
    "transposed, output shape": (
        "ConvTranspose",
        {"strides": [2, 2], "output_shape": [10, 9]},
        (1, 3, 5, 5),
        (3, 4, 3, 3),
        1,
    ),
    "three dimensions": ("Conv", {"pads": [1] * 6, "strides": [1, 2, 1]}, (1, 3, 5, 6, 4), (4, 3, 3, 3, 3), 0),
    "gemm": ("Gemm", {}, (3, 8), (8, 5), 1),
    "matmul": ("MatMul", {}, (2, 3, 8), (8, 5), 1),
}


@pytest.mark.parametrize("case", CASES)
def test_sums_of_products_equal_the_float_operator_within_one_code(case) -> None:
    op, attributes, shape, weight, axis = CASES[case]
    channels = weight[axis]
    scales = np.linspace(0.001, 0.004, channels).astype(np.float32)
    constants = {"w_q": codes(*weight, seed=1, low=-128, high=128, dtype=np.int8), "w_s": scales}
    module = single(op, attributes, shape, constants, [("w", axis)], scales=(0.05, 0.2))
    feeds = {"x": codes(*shape)}
    run = IntegerReference(module).run(feeds)
    plain = OrtSession(module, optimization="disable").run(feeds)["y"]
    difference = run.codes["y"].astype(int) - plain
    assert run.float_nodes == ()
    assert np.abs(difference).max() <= 1
    assert (difference != 0).mean() < 0.01


POOLS = {
    "maximum, ceiled": ("MaxPool", {"kernel_shape": [3, 3], "strides": [2, 2], "pads": [1, 1, 1, 1], "ceil_mode": 1}),
    "average, border left out": ("AveragePool", {"kernel_shape": [3, 3], "strides": [2, 2], "pads": [1, 1, 1, 1]}),
    "average, border counted": ("AveragePool", {"kernel_shape": [3, 2], "pads": [1, 0, 1, 1], "count_include_pad": 1}),
    "global": ("GlobalAveragePool", {}),
}


@pytest.mark.parametrize("case", POOLS)
@pytest.mark.parametrize("zeros", [(0, 0), (3, 5), (128, 128)])
def test_pooling_equals_the_fused_kernels(case, zeros) -> None:
    op, attributes = POOLS[case]
    scales = (0.05, 0.05) if op == "MaxPool" else (0.05, 0.021)
    zeros = (zeros[0], zeros[0]) if op == "MaxPool" else zeros
    module = single(op, attributes, (4, 8, 10, 10), {}, scales=scales, zeros=zeros)
    feeds = {"x": codes(4, 8, 10, 10)}
    run = IntegerReference(module).run(feeds)
    assert run.float_nodes == ()
    assert np.array_equal(run.codes["y"], OrtSession(module).run(feeds)["y"])


@pytest.mark.parametrize("mode", ["half_pixel", "asymmetric", "align_corners", "pytorch_half_pixel"])
@pytest.mark.parametrize("nearest", ["round_prefer_floor", "round_prefer_ceil", "floor", "ceil"])
@pytest.mark.parametrize("factor", [2.0, 1.5, 0.5])
def test_nearest_resizing_copies_the_same_codes(mode, nearest, factor) -> None:
    attributes = {"mode": "nearest", "coordinate_transformation_mode": mode, "nearest_mode": nearest}
    constants = {"roi": np.zeros(0, np.float32), "scales": np.array([1, 1, factor, factor], np.float32)}
    module = single("Resize", attributes, (1, 2, 6, 8), constants, [("roi", 0), ("scales", 0)], (0.05, 0.05), (3, 3))
    feeds = {"x": codes(1, 2, 6, 8)}
    run = IntegerReference(module).run(feeds)
    assert run.float_nodes == ()
    assert np.array_equal(run.codes["y"], OrtSession(module, optimization="disable").run(feeds)["y"])


@pytest.mark.parametrize("mode", ["constant", "reflect", "edge", "wrap"])
def test_padding_copies_codes(mode) -> None:
    constants = {"pads": np.array([0, 1, 2, 1, 0, 0, 1, 2], np.int64), "value": np.float32(0.1)}
    constants |= {} if mode == "constant" else {"value": np.float32(0)}
    module = single("Pad", {"mode": mode}, (1, 3, 6, 8), constants, [("pads", 0), ("value", 0)], (0.05, 0.05), (3, 3))
    feeds = {"x": codes(1, 3, 6, 8)}
    run = IntegerReference(module).run(feeds)
    assert run.float_nodes == ()
    assert np.array_equal(run.codes["y"], OrtSession(module, optimization="disable").run(feeds)["y"])


@pytest.mark.parametrize("given_as", ["scales", "sizes"])
def test_nearest_resizing_of_some_axes(given_as) -> None:
    attributes = {"mode": "nearest", "coordinate_transformation_mode": "asymmetric", "axes": [3, 2]}
    constants = {"roi": np.zeros(0, np.float32), "scales": np.zeros(0, np.float32)}
    if given_as == "scales":
        constants["scales"] = np.array([2, 3], np.float32)
    else:
        constants["sizes"] = np.array([16, 18], np.int64)
    names = [(name, 0) for name in constants]
    module = single("Resize", attributes, (1, 2, 6, 8), constants, names, (0.05, 0.05), (3, 3))
    feeds = {"x": codes(1, 2, 6, 8)}
    run = IntegerReference(module).run(feeds)
    assert run.float_nodes == ()
    assert np.array_equal(run.codes["y"], OrtSession(module, optimization="disable").run(feeds)["y"])


@given(
    st.sampled_from(["Add", "Mul", "Concat"]),
    st.tuples(*[st.floats(1e-3, 1.0)] * 3),
    st.tuples(*[st.integers(0, 255)] * 3),
)
@example("Add", (1.0, 0.001, 0.43015637346085006), (255, 255, 255))
@settings(max_examples=40, deadline=None)
def test_every_pair_of_codes_is_combined_as_the_fused_kernels_do(op, scales, zeros) -> None:
    first, second = (grid.reshape(-1).astype(np.uint8) for grid in np.meshgrid(np.arange(256), np.arange(256)))
    nodes = [
        helper.make_node("DequantizeLinear", ["x", "s0", "z0"], ["a"]),
        helper.make_node("DequantizeLinear", ["other", "s1", "z1"], ["b"]),
        helper.make_node(op, ["a", "b"], ["r"], **({"axis": 0} if op == "Concat" else {})),
        helper.make_node("QuantizeLinear", ["r", "s2", "z2"], ["y"]),
    ]
    constants = {f"s{i}": np.float32(s) for i, s in enumerate(scales)} | {
        f"z{i}": np.uint8(z) for i, z in enumerate(zeros)
    }
    graph = helper.make_graph(
        nodes,
        "two",
        [helper.make_tensor_value_info(name, TensorProto.UINT8, ["N"]) for name in ("x", "other")],
        [helper.make_tensor_value_info("y", TensorProto.UINT8, None)],
        [numpy_helper.from_array(np.asarray(array), name) for name, array in constants.items()],
    )
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    module = qir.load(made.SerializeToString())
    feeds = {"x": first, "other": second}
    run = IntegerReference(module).run(feeds)
    assert run.float_nodes == ()
    assert np.array_equal(run.codes["y"], OrtSession(module).run(feeds)["y"])


@pytest.mark.named_nodes
def test_softmax_is_computed_on_floats_and_named() -> None:
    module = single("Softmax", {}, (2, 5), {})
    run = IntegerReference(module).run({"x": codes(2, 5)})
    assert run.float_nodes == ("node",)
    assert np.array_equal(run.codes["y"], OrtSession(module, optimization="disable").run({"x": codes(2, 5)})["y"])


@pytest.mark.named_nodes
def test_an_accumulator_that_leaves_int32_is_refused_by_name() -> None:
    size = 70_000
    constants = {"w_q": np.full((size, 1), 127, np.int8), "w_s": np.float32(0.01)}
    module = single("MatMul", {}, (1, size), constants, [("w", 1)], zeros=(0, 0))
    with pytest.raises(DataError, match=r"'node': an accumulator reaches 2266950000 and leaves int32"):
        IntegerReference(module).run({"x": np.full((1, size), 255, np.uint8)})


def test_missing_and_unclean_inputs_are_refused() -> None:
    nodes = [helper.make_node("QuantizeLinear", ["x", "s", "z"], ["y"])]
    module = model(nodes, [3], {"s": np.float32(0.1), "z": np.uint8(0)}, element=TensorProto.FLOAT)
    with pytest.raises(DataError, match="input 'x' is missing"):
        IntegerReference(module).run({})
    with pytest.raises(DataError, match="holds NaN"):
        IntegerReference(module).run({"x": np.array([0, np.nan, 1], np.float32)})


def test_a_float_network_is_refused() -> None:
    with pytest.raises(QirError, match="no QuantizeLinear"):
        IntegerReference(qir.load(qir.models.path("lenet")))
