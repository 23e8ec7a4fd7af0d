"""Requantization on integers alone: against exact rational arithmetic, operator by operator, at widths 1 to 16."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

import qir
from qir.backends.execution.session import OrtSession
from qir.backends.integer.ratios import Ratio, dyadic, rounded_quotient
from qir.backends.integer.reference import IntegerReference
from qir.backends.integer.requantization import requantized, term
from qir.errors import QirError

scales = st.floats(2.0**-20, 4.0, width=32)
small_scales = st.floats(2.0**-24, 2.0**-6, width=32)


@given(st.integers(-(2**40), 2**40), st.integers(1, 2**40))
def test_quotients_are_rounded_half_to_even(numerator: int, denominator: int) -> None:
    found = rounded_quotient(np.asarray([numerator]), np.asarray([denominator]))
    assert int(found[0]) == round(Fraction(numerator, denominator))


positive = st.floats(2.0**-149, 2.0**127, width=32)


@given(st.lists(st.tuples(positive, positive, positive), min_size=1, max_size=3))
def test_mantissas_have_31_bits_and_are_within_half_a_unit(scales) -> None:
    mantissas, shift = dyadic(*(Ratio.of((np.float32(a), np.float32(b)), np.float32(c)) for a, b, c in scales))
    ratios = [Fraction(a) * Fraction(b) / Fraction(c) for a, b, c in scales]
    values = [int(mantissa) for mantissa in mantissas]
    assert 2**30 <= max(values) < 2**31
    for value, ratio in zip(values, ratios, strict=True):
        assert abs(Fraction(value) - ratio * Fraction(2) ** int(shift)) <= Fraction(1, 2)


@given(st.integers(-(2**31), 2**31 - 1), scales, small_scales, scales)
def test_a_dyadic_code_is_the_exact_one_unless_it_lies_at_a_tie(total, data, weight, output) -> None:
    made = requantized(
        [term(np.asarray(total), np.float32(data), np.float32(weight))], np.float32(output), "dyadic", ""
    )
    exact = total * Fraction(data) * Fraction(weight) / Fraction(output)
    error = abs(Fraction(int(made)) - exact) - Fraction(1, 2)
    assert error <= abs(exact) * Fraction(1, 2**31)


@given(st.integers(-(2**31), 2**31 - 1), st.integers(-40, 20), st.integers(-40, 0))
def test_powers_of_two_give_the_same_code_in_every_arithmetic(total, data, weight) -> None:
    summand = term(np.asarray(total), np.float32(2.0**data), np.float32(2.0**weight))
    exact = round(total * Fraction(2) ** (data + weight))
    for kind in ("dyadic", "power-of-two"):
        assert int(requantized([summand], np.float32(1.0), kind, "")) == max(-(2**62), min(exact, 2**62))


def test_a_multiplier_below_every_sum_gives_zero_and_other_ratios_are_refused_by_name() -> None:
    tiny = term(np.asarray([2**31 - 1, -(2**31)]), np.float32(2.0**-60), np.float32(1.0))
    assert requantized([tiny], np.float32(1.0), "dyadic", "").tolist() == [0, 0]
    assert requantized([tiny], np.float32(1.0), "power-of-two", "").tolist() == [0, 0]
    with pytest.raises(
        QirError, match=r"'conv': its ratio of scales 0\.3.* is not a power of two: run the pass power-of"
    ):
        requantized([term(np.asarray(1), np.float32(0.3))], np.float32(1.0), "power-of-two", "conv")
    exponents = [Ratio.of((np.float32(a),), np.float32(b)).binary_exponents() for a, b in ((8, 1), (3, 12), (1, 1))]
    assert exponents == [3, -2, 0]
    assert all(Ratio.of((np.float32(a),), np.float32(1)).binary_exponents() is None for a in (3, 0, -2))


ELEMENTS = {8: (np.uint8, np.int8), 16: (np.uint16, np.int16)}


def network(op, attributes, shapes, grids, output, *, weight=None, bits=8, outputs=1):
    """Codes → DequantizeLinear → op → QuantizeLinear; `grids` are (scale, zero point) of the inputs."""
    unsigned, signed = ELEMENTS[bits]
    nodes, inputs, constants = [], [], {}
    for index, (scale, zero) in enumerate(grids):
        constants |= {f"s{index}": np.float32(scale), f"z{index}": unsigned(zero)}
        nodes.append(helper.make_node("DequantizeLinear", [f"x{index}", f"s{index}", f"z{index}"], [f"d{index}"]))
        inputs.append(f"d{index}")
    if weight is not None:
        codes, scale, axis = weight
        constants |= {"w_q": codes.astype(signed), "w_s": np.asarray(scale, np.float32)}
        nodes.append(helper.make_node("DequantizeLinear", ["w_q", "w_s"], ["w"], axis=axis))
        inputs.append("w")
    constants |= {"sy": np.float32(output[0]), "zy": unsigned(output[1])}
    nodes.append(helper.make_node(op, inputs, ["r"], name="node", **attributes))
    nodes.append(helper.make_node("QuantizeLinear", ["r", "sy", "zy"], ["y"]))
    element = helper.np_dtype_to_tensor_dtype(np.dtype(unsigned))
    graph = helper.make_graph(
        nodes,
        "one",
        [helper.make_tensor_value_info(f"x{index}", element, shape) for index, shape in enumerate(shapes)],
        [helper.make_tensor_value_info("y", element, None)],
        [numpy_helper.from_array(np.asarray(array), name) for name, array in constants.items()],
    )
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    return qir.load(made.SerializeToString())


def float64_operator(op, attributes, tensors):
    """The operator on float64 tensors, by ONNX's reference evaluator: exact on integers below 2^53."""
    names = [f"t{index}" for index in range(len(tensors))]
    graph = helper.make_graph(
        [helper.make_node(op, names, ["r"], **attributes)],
        "float64",
        [helper.make_tensor_value_info(name, TensorProto.DOUBLE, None) for name in names],
        [helper.make_tensor_value_info("r", TensorProto.DOUBLE, None)],
    )
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    session = ReferenceEvaluator(made)
    return session.run(None, dict(zip(names, (np.asarray(t, np.float64) for t in tensors), strict=True)))[0]


LAYERS = {
    "conv 1-D": ("Conv", {"pads": [1, 1]}, (1, 3, 9), (4, 3, 3), 0),
    "conv 2-D grouped": ("Conv", {"group": 2, "strides": [2, 1]}, (1, 4, 6, 5), (6, 2, 3, 2), 0),
    "conv depthwise": ("Conv", {"group": 3, "dilations": [2, 1], "pads": [1, 0, 1, 0]}, (2, 3, 6, 6), (3, 1, 2, 3), 0),
    "conv 3-D": ("Conv", {"pads": [0, 1, 1, 0, 1, 1]}, (1, 2, 4, 5, 4), (3, 2, 2, 3, 3), 0),
    "transposed": ("ConvTranspose", {"strides": [2, 2], "pads": [1, 1, 0, 0]}, (1, 3, 4, 4), (3, 2, 3, 3), 1),
    "transposed, grouped": ("ConvTranspose", {"group": 2, "strides": [2]}, (1, 4, 5), (4, 3, 3), 1),
    "gemm": ("Gemm", {"transB": 1}, (3, 8), (5, 8), 0),
    "matmul": ("MatMul", {}, (2, 3, 8), (8, 5), 1),
}


@pytest.mark.parametrize("case", LAYERS)
@pytest.mark.parametrize("width", [1, 2, 4, 7, 8, 9, 10, 12, 13, 15, 16])
def test_sums_of_products_are_exact_at_every_width(case, width) -> None:
    op, attributes, shape, kernel, axis = LAYERS[case]
    random = np.random.default_rng([width, list(LAYERS).index(case)])
    bits = 8 if width <= 8 else 16
    data = random.integers(0, 2**width, shape).astype(ELEMENTS[bits][0])
    top = max(2 ** (width - 1) - 1, 1)
    weight = random.choice([-1, 1], kernel) if width == 1 else random.integers(-top, top + 1, kernel)
    channels = kernel[axis]
    weight_scale = random.uniform(1e-4, 1e-3, channels).astype(np.float32)
    grid, output = (0.03, 2 ** (width - 1) // 2 * 2), (0.011 * 2.0 ** (width - 8), 2 ** (bits - 1))
    module = network(op, attributes, [shape], [grid], output, weight=(weight, weight_scale, axis), bits=bits)
    run = IntegerReference(module, requantization="dyadic").run({"x0": data})
    assert run.float_nodes == ()
    centred = data.astype(np.int64) - grid[1]
    if case == "transposed, grouped":  # the reference evaluator has no grouped ConvTranspose
        halves = zip(np.split(centred, 2, axis=1), np.split(weight, 2), strict=True)
        total = np.concatenate([float64_operator(op, {"strides": [2]}, half) for half in halves], axis=1)
    else:
        total = float64_operator(op, attributes, [centred, weight])
    per_output = np.tile(weight_scale, attributes["group"]) if case == "transposed, grouped" else weight_scale
    per_output = per_output.reshape(-1, *(1,) * (total.ndim - 2)) if op.startswith("Conv") else per_output
    flat = np.broadcast_to(per_output, total.shape).reshape(-1)
    limits = np.iinfo(ELEMENTS[bits][0])
    for found, value, scale in zip(run.codes["y"].reshape(-1), total.reshape(-1), flat, strict=True):
        exact = (
            int(value)
            * Fraction(float(np.float32(grid[0])))
            * Fraction(float(scale))
            / Fraction(float(np.float32(output[0])))
        )
        assert int(found) == max(limits.min, min(limits.max, round(exact) + output[1]))


def one(op, attributes, feeds, grids, output, kind, bits=8):
    module = network(op, attributes, [feed.shape for feed in feeds], grids, output, bits=bits)
    run = IntegerReference(module, requantization=kind).run({f"x{i}": feed for i, feed in enumerate(feeds)})
    assert run.float_nodes == ()
    return run.codes["y"].astype(int)


@given(
    st.sampled_from(["Add", "Mul", "Concat"]), st.tuples(scales, scales, scales), st.tuples(*[st.integers(0, 255)] * 3)
)
@settings(max_examples=25, deadline=None)
def test_two_operands_are_rescaled_exactly(op, steps, zeros) -> None:
    random = np.random.default_rng(0)
    first, second = (random.integers(0, 256, 64).astype(np.uint8) for _ in range(2))
    attributes = {"axis": 0} if op == "Concat" else {}
    grids, output = list(zip(steps[:2], zeros[:2], strict=True)), (steps[2], zeros[2])
    found = one(op, attributes, [first, second], grids, output, "dyadic")
    left = [(int(code) - zeros[0]) * Fraction(steps[0]) for code in first]
    right = [(int(code) - zeros[1]) * Fraction(steps[1]) for code in second]
    pairs = zip(left, right, strict=True)
    exact = left + right if op == "Concat" else [a + b if op == "Add" else a * b for a, b in pairs]
    for code, value in zip(found, exact, strict=True):
        real = value / Fraction(steps[2])
        slack = Fraction(1, 2) + Fraction(1, 2**20)
        assert max(0, round(real - slack) + zeros[2]) <= code or code == 255
        assert code <= min(255, round(real + slack) + zeros[2]) or code == 0
        if abs(real - round(real)) < Fraction(49, 100):
            assert code == max(0, min(255, round(real) + zeros[2]))


@pytest.mark.parametrize("kind", ["dyadic", "power-of-two"])
@pytest.mark.parametrize("bits", [8, 16])
def test_means_divide_by_their_count(kind, bits) -> None:
    data = np.random.default_rng(1).integers(0, 2**bits, (1, 2, 5, 5)).astype(ELEMENTS[bits][0])
    attributes = {"kernel_shape": [3, 3], "pads": [1, 1, 1, 1]}
    found = one("AveragePool", attributes, [data], [(0.25, 4)], (0.5, 2), kind, bits)
    padded = np.pad(data.astype(np.int64) - 4, ((0, 0), (0, 0), (1, 1), (1, 1)))
    inside = np.pad(np.ones((5, 5), np.int64), 1)
    for channel in range(2):
        for y in range(5):
            for x in range(5):
                total = Fraction(
                    int(padded[0, channel, y : y + 3, x : x + 3].sum()), int(inside[y : y + 3, x : x + 3].sum())
                )
                assert found[0, channel, y, x] == max(0, round(total / 2) + 2)
    found = one("GlobalAveragePool", {}, [data], [(0.25, 4)], (0.25, 4), kind, bits)
    assert found.reshape(-1).tolist() == [round(Fraction(int(c.sum()), 25)) for c in data[0].astype(np.int64)]


@pytest.mark.named_nodes
@pytest.mark.parametrize("op", ["Relu", "Clip", "MaxPool", "Softmax"])
def test_activations_and_pooling_of_16_bit_codes(op) -> None:
    data = np.random.default_rng(2).integers(0, 2**16, (1, 2, 4, 4)).astype(np.uint16)
    attributes = {"kernel_shape": [2, 2]} if op == "MaxPool" else {}
    module = network(op, attributes, [data.shape], [(0.001, 30000)], (0.001, 30000), bits=16)
    run = IntegerReference(module, requantization="dyadic").run({"x0": data})
    assert run.float_nodes == (("node",) if op == "Softmax" else ())
    if op in ("Relu", "Clip"):
        assert (run.codes["y"] == (np.maximum(data, 30000) if op == "Relu" else data)).all()


def test_an_unknown_arithmetic_is_refused() -> None:
    module = network("Relu", {}, [(2,)], [(0.1, 0)], (0.1, 0))
    with pytest.raises(QirError, match="requantization 'int' is unknown; expected one of float32, dyadic"):
        IntegerReference(module, requantization="int")


@st.composite
def convolutions(draw):
    """Attributes, input shape and weight shape of a convolution over one to three dimensions."""
    rank, groups = draw(st.integers(1, 3)), draw(st.integers(1, 3))
    several = lambda low, high: draw(st.lists(st.integers(low, high), min_size=rank, max_size=rank))  # noqa: E731
    kernel, strides, dilations = several(1, 3), several(1, 3), several(1, 2)
    pads = several(0, 2) + several(0, 2)
    spatial = [(k - 1) * d + 1 + extra for k, d, extra in zip(kernel, dilations, several(0, 4), strict=True)]
    into, out = draw(st.integers(1, 3)), draw(st.integers(1, 3))
    attributes = {"group": groups, "strides": strides, "dilations": dilations, "pads": pads}
    return attributes, (2, into * groups, *spatial), (out * groups, into, *kernel)


@given(convolutions(), st.integers(0, 255), st.integers(0, 2**31))
@settings(max_examples=40, deadline=None)
def test_sums_of_any_geometry_equal_onnx_runtimes_integer_convolution(geometry, zero, seed) -> None:
    attributes, shape, kernel = geometry
    random = np.random.default_rng(seed)
    data, weight = random.integers(0, 256, shape).astype(np.uint8), random.integers(-128, 128, kernel).astype(np.int8)
    constants = {"w": weight, "zx": np.uint8(zero), "zw": np.int8(0), "s": np.float32(1), "zy": np.uint8(0)}
    graph = helper.make_graph(
        [
            helper.make_node("ConvInteger", ["x", "w", "zx", "zw"], ["sums"], **attributes),
            helper.make_node("Cast", ["sums"], ["real"], to=TensorProto.FLOAT),
            helper.make_node("QuantizeLinear", ["real", "s", "zy"], ["y"]),
        ],
        "sums",
        [helper.make_tensor_value_info("x", TensorProto.UINT8, shape)],
        [
            helper.make_tensor_value_info("sums", TensorProto.INT32, None),
            helper.make_tensor_value_info("y", TensorProto.UINT8, None),
        ],
        [numpy_helper.from_array(np.asarray(array), name) for name, array in constants.items()],
    )
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    module = qir.load(made.SerializeToString())
    run = IntegerReference(module).run({"x": data})
    found = OrtSession(module).run({"x": data})
    assert np.array_equal(run.codes["sums"], found["sums"])
    assert np.array_equal(run.codes["y"], found["y"])
