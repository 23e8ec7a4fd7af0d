"""Sums are proven to fit their accumulator, or the layer is refused by name before anything is written."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import qir
from qir.backends import load_target
from qir.errors import ExportError
from qir.guide import read_guide
from qir.passes import PassContext, PassManager, apply_policy, export, parse_pipeline
from qir.passes.analysis.arithmetic.accumulator import AccumulatorBounds, weighted_sums
from qir.passes.analysis.arithmetic.layer import LayerArithmetic
from qir.passes.analysis.quantized_layers import quantized_layers


def long_product(length: int) -> qir.Module:
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["y"], name="big")],
        "long",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", length])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", 2])],
        [numpy_helper.from_array(np.ones((length, 2), np.float32), "w")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    onnx.checker.check_model(model)
    module = qir.load(model.SerializeToString())
    data = np.random.default_rng(0).uniform(0, 1, (4, length)).astype(np.float32)
    pipeline = parse_pipeline("insert-fake-quant,calibrate{method=minmax}")
    PassManager(pipeline).run(module, PassContext(calibration_data=data))
    return module


@pytest.mark.named_nodes
def test_a_layer_that_can_overflow_is_refused_by_name_and_fewer_bits_help(tmp_path) -> None:
    module = long_product(70_000)
    with pytest.raises(ExportError, match=r"layer 'big': its sums can reach 0 to 2266950000, 33 bits"):
        export(module, tmp_path / "model.quant.onnx")
    assert not list(tmp_path.iterdir())
    apply_policy(module, {"big.weight": 4})
    assert export(module, tmp_path / "model.quant.onnx").mismatches == 0


@pytest.mark.parametrize(("low", "high", "bits"), [(0, 0, 1), (-1, 0, 1), (0, 1, 2), (-128, 127, 8), (-129, 0, 9)])
def test_the_width_is_the_smallest_that_holds_both_ends(low, high, bits) -> None:
    assert AccumulatorBounds(low, high).bits == bits


def two_activations(length: int) -> qir.Module:
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["a", "b"], ["y"], name="scores")],
        "attention",
        [
            helper.make_tensor_value_info("a", TensorProto.FLOAT, ["N", 2, length]),
            helper.make_tensor_value_info("b", TensorProto.FLOAT, ["N", length, 3]),
        ],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", 2, 3])],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    return qir.load(model.SerializeToString())


def test_products_of_two_activations_are_bounded_by_their_length() -> None:
    for length in (16, 40_000):
        module = two_activations(length)
        random = np.random.default_rng(0)
        shapes = {"a": (2, 2, length), "b": (2, length, 3)}
        data = {name: random.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}
        pipeline = parse_pipeline("insert-fake-quant,calibrate{method=minmax}")
        PassManager(pipeline).run(module, PassContext(calibration_data=data))
        (layer,) = quantized_layers(module.graph)
        bounds = LayerArithmetic.of(layer).bounds
        grids = [quantizer.grid() for quantizer in (layer.data, layer.weight)]
        ends = [(grid.low_code - grid.zero_point[0], grid.high_code - grid.zero_point[0]) for grid in grids]
        products = [int(a) * int(b) * length for a in ends[0] for b in ends[1]]
        assert (bounds.low, bounds.high) == (min(products), max(products))
        assert 2 ** (bounds.bits - 1) > max(abs(product) for product in products) >= 2 ** (bounds.bits - 2)


def test_the_bias_of_a_product_of_two_activations_is_in_its_bounds() -> None:
    random = np.random.default_rng(0)
    graph = helper.make_graph(
        [helper.make_node("Gemm", ["a", "b", "c"], ["y"], name="scores")],
        "product",
        [
            helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)
            for name, shape in (("a", [2, 8]), ("b", [8, 3]))
        ],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [2, 3])],
        [numpy_helper.from_array(np.array([900, 0, -700], np.float32), "c")],
    )
    module = qir.load(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10).SerializeToString()
    )
    feed = {name: random.normal(size=shape).astype(np.float32) for name, shape in (("a", (2, 8)), ("b", (8, 3)))}
    PassManager(parse_pipeline("insert-fake-quant,calibrate{method=minmax}")).run(
        module, PassContext(calibration_data=[feed])
    )
    (layer,) = quantized_layers(module.graph)
    record = LayerArithmetic.of(layer)
    bias = np.rint(np.array([900, -700]) / (record.data.scale[0] * record.weight.scale[0])).astype(int)
    products = record.sums.bounds()
    assert (record.bounds.low, record.bounds.high) == (products.low + bias[1], products.high + bias[0])


def test_a_bias_widens_the_bounds_on_its_own_side_only() -> None:
    module = long_product(16)
    (layer,) = quantized_layers(module.graph)
    weight = np.full((16, 2), 127, np.int32)
    sums = weighted_sums(layer.node, weight, layer.data.grid())
    plain = sums.bounds()
    assert plain == AccumulatorBounds(0, 16 * 127 * 255)
    assert sums.bounds(np.array([-7, 5])) == AccumulatorBounds(-7, plain.high + 5)
    rows = np.array([[-7, 5], [3, -9]])
    assert sums.bounds(rows) == AccumulatorBounds(-9, plain.high + 5)


@pytest.mark.parametrize(("scheme", "bits"), [("potq", 3), ("uniform", (8, 4, 1, 0, 2, 8))])
def test_integer_multiples_of_a_step_are_bounded_too(random_network, scheme, bits) -> None:
    """The worst input, one extreme code a weight, reaches the bounds."""
    _, module = random_network(2, 8, 8, first=6)
    layer = next(iter(quantized_layers(module.graph)))
    layer.weight.set_scheme(scheme)
    layer.weight.bits = bits
    record = LayerArithmetic.of(layer)
    codes, grid = record.weight.codes, record.data.grid
    rows = codes.centred(0).reshape(6, -1).astype(np.int64)
    ends = np.array([grid.low_code, grid.high_code]) - int(grid.zero_point[0])
    worst = np.maximum(rows * ends[0], rows * ends[1]).sum(1)
    bias = np.rint(layer.bias.constant.numpy() / (grid.scale[0] * codes.scale)).astype(np.int64)
    assert record.bounds.high == (worst + np.maximum(bias, 0)).max()


def test_sums_of_unknown_length_are_named(tmp_path) -> None:
    module = two_activations(16)
    for value in module.graph.inputs:
        value.type = qir.types.TensorType(qir.types.DType.FLOAT32, (None, None, None))
    random = np.random.default_rng(0)
    data = {"a": random.normal(size=(2, 2, 16)), "b": random.normal(size=(2, 16, 3))}
    data = {name: array.astype(np.float32) for name, array in data.items()}
    pipeline = parse_pipeline("insert-fake-quant,calibrate{method=minmax}")
    PassManager(pipeline).run(module, PassContext(calibration_data=data))
    report = export(module, tmp_path / "m.quant.onnx", data=data)
    assert len(report.unproven) == 1
    assert read_guide(report.guide).layers[0].accumulator is None


@pytest.mark.named_nodes
def test_a_targets_accumulator_is_held_in_every_profile(tmp_path) -> None:
    module, target = long_product(70_000), load_target("bitfusion-e")
    for bits, name in ((32, "int32"), (24, "24-bit accumulator")):
        narrow = target.model_copy(update={"accumulator_bits": bits})
        profile = "qcdq" if bits == 32 else "float"
        with pytest.raises(ExportError, match=f"layer 'big': its sums can reach .*{name}"):
            export(module, tmp_path / "m.quant.onnx", profile=profile, target=narrow)
