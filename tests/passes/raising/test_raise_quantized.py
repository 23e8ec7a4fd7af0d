import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import helper, numpy_helper

import qir
from qir.backends.execution.random_feed import random_feed
from qir.fake_quant import FakeQuant, quantizers
from qir.graph import Node
from qir.passes import PassContext, export, raise_quantized, run_passes
from qir.passes.infrastructure.testing import largest_error, run_onnxruntime
from qir.passes.raising import RaiseQuantized
from qir.passes.raising.grids import CodeGrid, spec_of
from qir.quantizers import get_scheme
from qir.tensor import Tensor


def lowered(module):
    """A copy whose fake-quant nodes are QuantizeLinear → Clip → DequantizeLinear."""
    made = module.clone()
    graph = made.graph
    for node in graph.fake_quants():
        grid, axis = FakeQuant(node).grid(), FakeQuant(node).granularity.axis
        dtype = np.int8 if grid.low_code < 0 else np.uint8
        shape = () if axis is None else (-1,)
        scale = graph.add_constant("s", Tensor.of(grid.scale.reshape(shape)))
        zero = graph.add_constant("z", Tensor.of(grid.zero_point.reshape(shape).astype(dtype)))
        low, high = (graph.add_constant("c", Tensor.of(np.array(c, dtype))) for c in (grid.low_code, grid.high_code))
        attributes = {} if axis is None else {"axis": axis}
        codes = graph.insert(Node("QuantizeLinear", (node.input(0), scale, zero), attributes=attributes), before=node)
        clipped = graph.insert(Node("Clip", (codes.result, low, high)), before=node)
        values = graph.insert(
            Node("DequantizeLinear", (clipped.result, scale, zero), attributes=attributes), before=node
        )
        node.result.replace_all_uses_with(values.result)
        graph.erase(node)
    return made


def network(builder):
    b = builder(opset=17)
    y = b.node("Conv", [b.input("x", [4, 3, 12, 12]), b.normal("conv1.weight", 8, 3, 3, 3), b.normal("conv1.bias", 8)])
    y = b.node("MaxPool", [b.node("Relu", [y])], kernel_shape=[2, 2], strides=[2, 2])
    z = b.node("Conv", [y, b.normal("conv2.weight", 8, 1, 3, 3)], group=8, pads=[1, 1, 1, 1])
    y = b.node("Add", [y, z])
    y = b.node("GlobalAveragePool", [y])
    y = b.node("Flatten", [y])
    b.node("Gemm", [y, b.normal("fc.weight", 5, 8), b.normal("fc.bias", 5)], "y", transB=1)
    return b.module("y")


class Reader:
    def __init__(self, feeds):
        self.feeds = iter(feeds)

    def get_next(self):
        return next(self.feeds, None)


def quantize(folder, builder, **options):
    from onnxruntime.quantization import quantize_static

    module = network(builder)
    qir.save(module, folder / "float.onnx")
    feeds = [random_feed(module, samples=2, unknown=2, seed=seed) for seed in range(4)]
    quantize_static(str(folder / "float.onnx"), str(folder / "quant.onnx"), Reader(feeds), **options)
    return folder / "quant.onnx", feeds[0]


def scales_in(path):
    """Every scale in the file with its zero point."""
    model = onnx.load(path)
    arrays = {i.name: numpy_helper.to_array(i) for i in model.graph.initializer}
    found = set()
    for node in model.graph.node:
        if node.op_type in {"QuantizeLinear", "DequantizeLinear"}:
            scale, zero = arrays[node.input[1]], arrays[node.input[2]] if len(node.input) > 2 else np.zeros(1, np.uint8)
            if zero.dtype != np.int32:
                found.add((scale.tobytes(), zero.astype(np.int32).tobytes()))
    return found


@pytest.mark.named_nodes("equal")
@pytest.mark.parametrize("per_channel", [True, False])
@pytest.mark.parametrize("form", ["QDQ", "QOperator"])
@pytest.mark.parametrize("activations", ["QUInt8", "QInt8"])
def test_networks_quantized_by_onnxruntime(tmp_path, builder, form, per_channel, activations):
    from onnxruntime.quantization import QuantFormat, QuantType

    path, feed = quantize(
        tmp_path,
        builder,
        quant_format=getattr(QuantFormat, form),
        per_channel=per_channel,
        activation_type=getattr(QuantType, activations),
        weight_type=QuantType.QInt8,
        reduce_range=True,  # what ONNX Runtime computes of 8 bits depends on the CPU
    )
    module = qir.load(path)
    expected = run_onnxruntime(module, feed)
    context = PassContext()
    assert raise_quantized(module, context) is module
    report = context.reports["raise-quantized"]
    assert not report.left
    ops = {node.op for node in module.graph}
    assert ops == {"fake_quant", "Conv", "Relu", "MaxPool", "Add", "GlobalAveragePool", "Flatten", "Gemm"} - (
        {"Relu"} if "Relu" not in ops else set()
    )
    assert largest_error(expected, run_onnxruntime(lowered(module), feed)) < (1e-5 if form == "QDQ" else 0.02)
    if form == "QDQ":
        grids = [FakeQuant(node).grid() for node in module.graph.fake_quants()]
        ours = {(grid.scale.tobytes(), grid.zero_point.tobytes()) for grid in grids}
        assert ours <= scales_in(path)
    names = set(quantizers(module.graph))
    assert {"conv1.weight", "conv2.weight", "fc.weight"} <= names


@pytest.mark.named_nodes("equal")
@pytest.mark.parametrize(("activations", "weights"), [("QUInt16", "QInt8"), ("QUInt8", "QInt4")])
def test_other_widths_by_onnxruntime(tmp_path, builder, activations, weights):
    from onnxruntime.quantization import QuantType

    types = {"activation_type": getattr(QuantType, activations), "weight_type": getattr(QuantType, weights)}
    path, feed = quantize(tmp_path, builder, per_channel=True, **types)
    module = qir.load(path)
    expected = run_onnxruntime(module, feed)
    context = PassContext()
    raise_quantized(module, context)
    assert not context.reports["raise-quantized"].left
    bits = {FakeQuant(node).bits for node in module.graph.fake_quants() if not node.input(0).is_constant}
    assert bits == {16 if activations == "QUInt16" else 8}
    weights_bits = {FakeQuant(node).bits for node in module.graph.fake_quants() if node.input(0).is_constant}
    assert max(weights_bits) == (8 if weights == "QInt8" else 4)
    if activations == "QUInt8":
        assert largest_error(expected, run_onnxruntime(lowered(module), feed)) < 1e-5


def test_dynamic_quantization_is_left_and_listed(tmp_path, builder):
    from onnxruntime.quantization import quantize_dynamic

    b = builder()
    module = b.module(b.node("MatMul", [b.input("x", [3, 4]), b.normal("w", 4, 5)]))
    qir.save(module, tmp_path / "float.onnx")
    quantize_dynamic(tmp_path / "float.onnx", tmp_path / "dynamic.onnx")
    module = qir.load(tmp_path / "dynamic.onnx")
    context = PassContext()
    raise_quantized(module, context)
    assert "at run time" in " ".join(context.reports["raise-quantized"].left.values())


def test_an_exported_network_comes_back_with_its_names_bits_and_scales(tmp_path, builder):
    module = network(builder)
    data = random_feed(module, samples=8)["x"]
    pipeline = "infer-types,fold-batchnorm,insert-fake-quant,calibrate{method=minmax}"
    run_passes(module, pipeline, data=data)
    for index, node in enumerate(module.graph.fake_quants()):
        if len(FakeQuant(node).widths) > 1:
            FakeQuant(node).bits = 8 - index % 4
    export(module, tmp_path / "q.onnx", profile="qcdq", data=data)
    raised = raise_quantized(qir.load(tmp_path / "q.onnx"))
    before, after = quantizers(module.graph), quantizers(raised.graph)
    assert set(before) == set(after)
    for name, node in before.items():
        ours, theirs = node.grid(), after[name].grid()
        assert (theirs.low_code, theirs.high_code) == (ours.low_code, ours.high_code)
        np.testing.assert_array_equal(ours.scale, theirs.scale)
        np.testing.assert_array_equal(ours.zero_point, theirs.zero_point)


def test_clip_between_narrows_the_width_and_grid_keepers_stay(builder):
    b = builder(opset=13)
    x = b.input("x", [2, 3, 4, 4])
    scale = b.const("s", np.float32(0.037))

    def codes(name, value, dtype=np.uint8):
        b.constants.append(numpy_helper.from_array(np.asarray(value, dtype), name))
        return name

    zero = codes("z", 3)
    y = b.node("QuantizeLinear", [x, scale, zero])
    y = b.node("Clip", [y, codes("low", 0), codes("high", 15)])
    y = b.node("DequantizeLinear", [b.node("Flatten", [y]), scale, zero])
    module = b.module(y)
    feed = random_feed(module, samples=2, unknown=2)
    expected = run_onnxruntime(module, feed)
    raise_quantized(module)
    assert [node.op for node in module.graph] == ["fake_quant", "Flatten"]
    (node,) = module.graph.fake_quants()
    assert (FakeQuant(node).bits, FakeQuant(node).signed, FakeQuant(node).widths) == (4, 0, (4,))
    grid = FakeQuant(node).grid()
    assert grid.scale[0] == np.float32(0.037)
    assert grid.zero_point[0] == 3
    assert largest_error(expected, run_onnxruntime(lowered(module), feed)) == 0


def test_pad_on_codes(builder):
    b = builder(opset=13)
    b.constants += [numpy_helper.from_array(np.array(v, np.uint8), n) for n, v in (("z", 7), ("fill", 9))]
    y = b.node("QuantizeLinear", [b.input("x", [1, 1, 3, 3]), b.const("s", np.float32(0.05)), "z"])
    y = b.node("Pad", [y, b.ints("pads", [0, 0, 1, 1, 0, 0, 1, 1]), "fill"])
    module = b.module(b.node("DequantizeLinear", [y, "s", "z"]))
    feed = random_feed(module, samples=2, unknown=2)
    expected = run_onnxruntime(module, feed)
    raise_quantized(module)
    assert [node.op for node in module.graph] == ["fake_quant", "Pad"]
    assert largest_error(expected, run_onnxruntime(lowered(module), feed)) == 0


def test_a_weight_gets_the_smallest_width_that_holds_its_codes(builder):
    b = builder(opset=13)
    weight = np.random.default_rng(0).integers(-7, 8, (6, 4, 1, 1))
    b.constants.append(numpy_helper.from_array(weight.astype(np.int8), "conv.weight_quantized"))
    b.const("s", np.linspace(0.01, 0.2, 6))
    b.constants.append(numpy_helper.from_array(np.zeros(6, np.int8), "z"))
    w = b.node("DequantizeLinear", ["conv.weight_quantized", "s", "z"], axis=0)
    module = b.module(b.node("Conv", [b.input("x", [1, 4, 5, 5]), w]))
    feed = random_feed(module, samples=2, unknown=2)
    expected = run_onnxruntime(module, feed)
    raise_quantized(module)
    node = quantizers(module.graph)["conv.weight"]
    assert (node.bits, node.narrow, node.granularity.axis) == (4, 1, 0)
    np.testing.assert_array_equal(node.grid().scale, np.linspace(0.01, 0.2, 6).astype(np.float32))
    assert largest_error(expected, run_onnxruntime(lowered(module), feed)) == 0


def test_codes_packed_into_int4_are_unpacked(builder):
    b = builder(opset=21, ir_version=10)
    codes = np.random.default_rng(0).integers(-7, 8, (6, 4))
    b.constants.append(helper.make_tensor("fc.weight_quantized", onnx.TensorProto.INT4, codes.shape, codes.reshape(-1)))
    b.const("s", np.linspace(0.01, 0.2, 4))
    w = b.node("DequantizeLinear", [b.node("Cast", ["fc.weight_quantized"], to=onnx.TensorProto.INT8), "s"], axis=1)
    module = b.module(b.node("MatMul", [b.input("x", [1, 6]), w]))
    feed = random_feed(module, samples=2, unknown=2)
    expected = run_onnxruntime(module, feed)
    raise_quantized(module)
    (node,) = module.graph.fake_quants()
    assert (FakeQuant(node).bits, FakeQuant(node).granularity.axis) == (4, 1)
    assert largest_error(expected, run_onnxruntime(lowered(module), feed)) < 1e-6


def test_dequantized_integers_that_no_one_quantized_are_left_and_listed(builder):
    b = builder(opset=13)
    b.inputs.append(helper.make_tensor_value_info("x", onnx.TensorProto.UINT8, [2, 4]))
    b.const("s", np.float32(0.1))
    b.constants.append(numpy_helper.from_array(np.array(0, np.uint8), "z"))
    module = b.module(b.node("DequantizeLinear", ["x", "s", "z"]))
    context = PassContext()
    raise_quantized(module, context)
    assert [node.op for node in module.graph] == ["DequantizeLinear"]
    assert "unknown origin" in next(iter(context.reports["raise-quantized"].left.values()))


def qonnx(builder, quantizers_of_x, weight_attributes, op="Quant"):
    b = builder(opset=13)
    x = b.input("x", [2, 4])
    operands = [b.const(f"q{i}", value) for i, value in enumerate(quantizers_of_x)]
    y = b.node(op, [x, *operands], domain="qonnx.custom_op.general", **weight_attributes)
    graph = helper.make_graph(
        b.nodes, "g", b.inputs, [helper.make_tensor_value_info(y, onnx.TensorProto.FLOAT, [2, 4])], b.constants
    )
    opsets = [helper.make_opsetid("", 13), helper.make_opsetid("qonnx.custom_op.general", 1)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=8)


def loaded(tmp_path, model):
    onnx.save(model, tmp_path / "q.onnx")
    return qir.load(tmp_path / "q.onnx")


@pytest.mark.parametrize(
    ("scale", "zero", "bits", "signed", "narrow"),
    [(0.1, 0, 4, 1, 0), (0.1, 0, 3, 1, 1), (0.25, 0, 8, 0, 0), (0.07, 6, 4, 0, 0), ([0.1, 0.2, 0.3, 0.4], 0, 5, 1, 0)],
)
def test_qonnx_quant(tmp_path, builder, scale, zero, bits, signed, narrow):
    module = loaded(tmp_path, qonnx(builder, (scale, zero, bits), {"signed": signed, "narrow": narrow}))
    raise_quantized(module)
    (node,) = module.graph.fake_quants()
    assert "qonnx.custom_op.general" not in module.opsets
    x = np.random.default_rng(0).standard_normal((2, 4)).astype(np.float32)
    view = FakeQuant(node)
    found = view.scheme(view.bits).fake_quantize(x, view.grid(), view.granularity.axis)
    s = np.asarray(scale, np.float32)
    high = 2 ** (bits - signed) - 1
    low = (-high if narrow else -high - 1) if signed else 0
    np.testing.assert_array_equal(found, (np.clip(np.rint(x / s) + zero, low, high) - zero).astype(np.float32) * s)


@pytest.mark.parametrize("op", ["BipolarQuant", "Quant"])
def test_qonnx_bipolar(tmp_path, builder, op):
    operands, attributes = ((0.3,), {}) if op == "BipolarQuant" else ((0.3, 0, 1), {"signed": 1, "narrow": 0})
    module = loaded(tmp_path, qonnx(builder, operands, attributes, op))
    raise_quantized(module)
    (node,) = module.graph.fake_quants()
    x = np.array([-1.0, -0.0, 0.0, 2.0], np.float32)
    found = get_scheme("uniform").fake_quantize(x, FakeQuant(node).grid())
    np.testing.assert_array_equal(found, np.float32(0.3) * np.array([-1, 1, 1, 1], np.float32))


@pytest.mark.parametrize(
    ("operands", "attributes", "reason"),
    [
        ((0.1, 0, 4), {"rounding_mode": "FLOOR"}, "rounds by FLOOR"),
        ((0.1, 0, 2.5), {}, "not constant and whole"),
        ((0.1, 0, 4), {"signed": 0, "narrow": 1}, "unsigned and narrow"),
        ((0.0, 0, 4), {}, "not positive"),
    ],
)
def test_qonnx_that_fake_quant_cannot_say_is_left(tmp_path, builder, operands, attributes, reason):
    module = loaded(tmp_path, qonnx(builder, operands, attributes))
    context = PassContext()
    raise_quantized(module, context)
    assert reason in next(iter(context.reports["raise-quantized"].left.values()))


@settings(deadline=None, max_examples=200)
@given(
    st.floats(2**-20, 2**10, width=32),
    st.integers(1, 8),
    st.booleans(),
    st.booleans(),
    st.floats(0, 1),
)
def test_ranges_give_the_scale_and_zero_point_back(scale, bits, signed, symmetric, where):
    if signed and bits == 1:
        bits = 2
    low, high = (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) if signed else (0, 2**bits - 1)
    zero = 0 if symmetric else int(low + where * (high - low))
    spec = spec_of(CodeGrid(np.array([scale], np.float32), np.array([zero]), None, low, high))
    grid = get_scheme(spec.scheme).parameters(spec.ranges, spec.bits, spec.signed, spec.narrow)
    assert grid.zero_point[0] == zero
    assert (grid.low_code, grid.high_code) == (low, high)
    assert grid.scale[0] == np.float32(scale)


def test_more_widths_can_be_asked_for(builder):
    b = builder(opset=13)
    b.constants.append(numpy_helper.from_array(np.array(3, np.uint8), "z"))
    y = b.node("QuantizeLinear", [b.input("x", [2, 3]), b.const("s", np.float32(0.162)), "z"])
    module = b.module(b.node("DequantizeLinear", [y, "s", "z"]))
    RaiseQuantized(widths=(4,)).run(module, PassContext())
    (node,) = module.graph.fake_quants()
    assert FakeQuant(node).grid().scale[0] == np.float32(0.162)
    assert FakeQuant(node).grid(4).scale[0] == pytest.approx(0.162 * 255 / 15, rel=1e-5)


def test_scales_that_were_computed_from_a_range_are_ranges_again():
    largest = np.random.default_rng(0).uniform(0.01, 10, 2000).astype(np.float32)
    for bits in (2, 4, 8):
        top = 2 ** (bits - 1) - 1
        spec = spec_of(CodeGrid(largest / np.float32(top), np.zeros(2000, np.int64), 0, -top, top))
        assert spec.scheme == "uniform"
