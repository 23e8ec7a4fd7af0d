"""Files as exporters and other tools write them: each is quantized, or refused with the command that serves."""

from __future__ import annotations

import json

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_dynamic, quantize_static
from onnxruntime.quantization.matmul_nbits_quantizer import MatMulNBitsQuantizer

import qir
from qir import quantize
from qir.errors import ExportError, PassError
from qir.passes import export, raise_quantized, run_passes
from qir.passes.simplify.canonicalize import SIMPLIFY
from qir.passes.simplify.infer_types import verify_types

FLOAT = TensorProto.FLOAT


def normal(*shape, seed=0, scale=1.0):
    return (np.random.default_rng(seed).standard_normal(shape) * scale).astype(np.float32)


IMAGES = normal(8, 4, 10, 10, seed=1)
WEIGHTS = {"w": normal(4, 4, 3, 3, seed=2, scale=0.3), "w2": normal(4, 4, 3, 3, seed=3, scale=0.3)}


def node(op, inputs, output, **attributes):
    return helper.make_node(op, inputs, [output], name=f"{output}.{op}", **attributes)


def info(name, shape):
    return helper.make_tensor_value_info(name, FLOAT, shape)


def model(nodes, inputs, constants, outputs=("y",), *, opset=17, ir_version=8):
    graph = helper.make_graph(
        nodes,
        "g",
        [info(name, shape) for name, shape in inputs.items()],
        [info(name, None) for name in outputs],
        [numpy_helper.from_array(np.asarray(array), name) for name, array in constants.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=ir_version)


def two_convolutions(middle=(), **options):
    """Convolution, something in the middle (by default Relu) from `a` to `r`, convolution."""
    nodes = [
        node("Conv", ["x", "w"], "a", pads=[1, 1, 1, 1]),
        *(middle or [node("Relu", ["a"], "r")]),
        node("Conv", ["r", "w2"], "y"),
    ]
    return model(nodes, {"x": ["N", 4, 10, 10]}, WEIGHTS, **options)


def saved(message, path):
    onnx.save(message, path)
    return path


def runs(path, **feeds):
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"]).run(None, feeds)


def decibels(exact, found):
    """Signal to quantization noise."""
    return 10 * np.log10((exact.astype(np.float64) ** 2).sum() / ((found - exact).astype(np.float64) ** 2).sum())


@pytest.mark.parametrize("ir_version", [3, 4, 8])
@pytest.mark.parametrize("others", [False, True], ids=["all constants listed", "weights listed"])
def test_weights_that_are_listed_as_inputs_are_quantized_at_any_ir_version(ir_version, others, tmp_path):
    message = two_convolutions(opset=9, ir_version=ir_version)
    message.graph.input.extend(info(name, array.shape) for name, array in WEIGHTS.items())
    if others and ir_version > 3:
        message.graph.initializer.append(numpy_helper.from_array(np.float32(2), "factor"))
        message.graph.node[1].CopyFrom(node("Mul", ["a", "factor"], "r"))
    file = saved(message, tmp_path / "listed.onnx")
    done = quantize(file, target="npu-148", data=IMAGES, output=tmp_path / "q.onnx")
    assert [value.name for value in qir.load(done.written.model).graph.inputs] == ["x"]
    assert decibels(runs(file, x=IMAGES)[0], runs(done.written.model, x=IMAGES)[0]) > 34


def test_an_input_of_rank_0_holds_for_all_samples(tmp_path):
    message = two_convolutions([node("Div", ["a", "t"], "r")])
    message.graph.input.append(info("t", []))
    file, two = saved(message, tmp_path / "scalar.onnx"), np.float32(2)
    samples = [{"x": IMAGES[i : i + 1], "t": two} for i in range(len(IMAGES))]
    for data in ({"x": IMAGES, "t": two}, samples):
        done = quantize(file, target="npu-148", data=data, output=tmp_path / "q.onnx")
        assert done.written.mismatches == 0
        exact, found = (runs(path, x=IMAGES, t=np.asarray(two))[0] for path in (file, done.written.model))
        assert decibels(exact, found) > 30


class Reader(CalibrationDataReader):
    def __init__(self):
        self.rest = iter([{"x": IMAGES}])

    def get_next(self):
        return next(self.rest, None)


def statically(message, folder, form):
    """The file as ONNX Runtime's quantizer writes it."""
    path = folder / "other.onnx"
    source = saved(message, folder / "float.onnx")
    quantize_static(
        source, path, Reader(), quant_format=form, activation_type=QuantType.QUInt8, weight_type=QuantType.QInt8
    )
    return path


@pytest.mark.parametrize("profile", ["qcdq", "qonnx", "finn-thresholds"])
def test_a_file_without_types_of_values_is_exported_in_every_profile(profile, tmp_path):
    path = statically(two_convolutions(), tmp_path, QuantFormat.QDQ)
    message = onnx.load(path)
    message.graph.ClearField("value_info")
    module = raise_quantized(qir.load(message.SerializeToString()))
    assert export(module, tmp_path / "again.onnx", profile=profile, data=IMAGES).mismatches == 0


def quantized_files(folder):
    """Files of every quantized form, and what the message says of each."""
    yield statically(two_convolutions(), folder, QuantFormat.QDQ), "3 QuantizeLinear.*qir export"
    yield statically(two_convolutions(), folder, QuantFormat.QOperator), "2 QLinearConv.*qir export"
    source = saved(two_convolutions(), folder / "float.onnx")
    quantize_dynamic(source, folder / "dynamic.onnx", weight_type=QuantType.QUInt8)
    yield folder / "dynamic.onnx", "2 ConvInteger.*at run time"
    own = quantize(source, target="npu-148", data=IMAGES, output=folder / "own.quant.onnx").written.model
    yield own, "DequantizeLinear.*qir export"
    matmul = model([node("MatMul", ["x", "w"], "y")], {"x": ["N", 64]}, {"w": normal(64, 32)})
    made = MatMulNBitsQuantizer(matmul, block_size=32)
    made.process()
    yield saved(made.model.model, folder / "nbits.onnx"), "1 MatMulNBits.*qir export"


def test_a_file_that_is_quantized_already_is_refused_with_the_command_that_serves(tmp_path):
    for path, said in quantized_files(tmp_path):
        with pytest.raises(PassError, match=f"quantized already.*{said}"):
            quantize(path, target="npu-148", data=IMAGES, output=tmp_path / "twice.onnx")
    assert not (tmp_path / "twice.onnx").exists()


def test_export_says_why_a_dynamically_quantized_file_has_no_quantizers(tmp_path):
    source = saved(two_convolutions(), tmp_path / "float.onnx")
    quantize_dynamic(source, tmp_path / "dynamic.onnx", weight_type=QuantType.QUInt8)
    with pytest.raises(ExportError, match="quantized at run time"):
        export(raise_quantized(qir.load(tmp_path / "dynamic.onnx")), tmp_path / "q.onnx", data=IMAGES)


def test_a_branch_that_is_chosen_at_run_time_goes_to_qonnx(tmp_path):
    def branch(op):
        return helper.make_graph([node(op, ["a"], f"{op}_out")], op, [], [info(f"{op}_out", None)])

    middle = [
        node("ReduceMean", ["x"], "mean", keepdims=0),
        node("Greater", ["mean", "ten"], "large"),
        node("If", ["large"], "r", then_branch=branch("Neg"), else_branch=branch("Relu")),
    ]
    message = two_convolutions(middle)
    message.graph.initializer.append(numpy_helper.from_array(np.float32(10).reshape(()), "ten"))
    file = saved(message, tmp_path / "if.onnx")
    done = quantize(file, target="npu-148", data=IMAGES, output=tmp_path / "q.onnx")
    module = raise_quantized(qir.load(done.written.model))
    written = export(module, tmp_path / "qonnx.onnx", profile="qonnx", data=IMAGES)
    assert written.mismatches == 0
    assert written.codes > 0


def test_a_weight_that_three_layers_read_is_packed_once(tmp_path):
    nodes, value = [], "x"
    for i in range(3):
        nodes += [node("Gemm", [value, "w", "b"], f"g{i}", transB=1), node("Relu", [f"g{i}"], f"r{i}")]
        value = f"r{i}"
    constants = {"w": normal(64, 64, scale=1 / 8), "b": np.zeros(64, np.float32)}
    file = saved(model(nodes, {"x": ["N", 64]}, constants, (value,)), tmp_path / "shared.onnx")
    done = quantize(file, target="npu-148", data=normal(64, 64), output=tmp_path / "q.onnx")
    assert 64 * 64 <= done.written.weights.stat().st_size < 2 * 64 * 64  # the weight once, and codes of biases
    layers = json.loads(done.written.guide.read_text())["layers"]
    assert len({json.dumps(layer["packed_weight"]) for layer in layers}) == 1
    assert len({layer["name"] for layer in layers}) == 3


@pytest.mark.parametrize("factors", [{"alpha": 0.5}, {"beta": 2.0}, {"alpha": 0.5, "beta": 3.0, "transB": 1}])
def test_factors_of_a_gemm_go_into_its_constants(factors, tmp_path):
    nodes = [
        node("Gemm", ["x", "w", "b"], "a", **factors),
        node("Relu", ["a"], "r"),
        node("Gemm", ["r", "v", "b"], "y"),
    ]
    constants = {"w": normal(16, 16, seed=1, scale=0.3), "v": normal(16, 16, seed=2, scale=0.3), "b": normal(16)}
    file, data = saved(model(nodes, {"x": ["N", 16]}, constants), tmp_path / "gemm.onnx"), normal(32, 16, seed=3)
    done = quantize(file, target="npu-148", data=data, output=tmp_path / "q.onnx")
    assert done.written.integer_nodes == ("QGemm", "QGemm")
    assert not done.left_float
    assert done.written.mismatches == 0
    assert decibels(runs(file, x=data)[0], runs(done.written.model, x=data)[0]) > 38


def test_a_custom_domain_that_the_file_does_not_import_is_read():
    message = two_convolutions([helper.make_node("Strange", ["a"], ["r"], domain="my.ops", name="strange")])
    module = qir.load(message.SerializeToString())
    assert module.opsets["my.ops"] == 1
    qir.verify(module)


SHAPES = {"sizes": ["N", 4, 99, 99], "rank": ["N", 4]}


@pytest.mark.named_nodes("equal")
@pytest.mark.parametrize("named", [True, False], ids=["named nodes", "nameless nodes"])
@pytest.mark.parametrize("place", ["value_info", "output"])
@pytest.mark.parametrize("wrong", SHAPES)
def test_what_follows_from_the_operands_wins_over_wrong_declared_shapes(wrong, place, named, tmp_path):
    message = two_convolutions()
    for convolution in () if named else message.graph.node:
        convolution.name = ""
    if place == "output":
        message.graph.output[0].CopyFrom(info("y", SHAPES[wrong]))
    else:
        message.graph.value_info.append(info("a", SHAPES[wrong]))
    name, file = ("y" if place == "output" else "a"), saved(message, tmp_path / "wrong.onnx")
    done = quantize(file, target="npu-148", data=IMAGES, output=tmp_path / "q.onnx")
    assert done.written.mismatches == 0
    assert any(note.startswith(f"{name}: the file declares") for note in done.notes)
    module = qir.load(file)
    assert verify_types(module)[0].startswith(f"{name}: the file declares")
    qir.save(module, tmp_path / "right.onnx")
    onnx.checker.check_model(tmp_path / "right.onnx", full_check=True)
    assert runs(tmp_path / "right.onnx", x=IMAGES)[0].shape == (8, 4, 8, 8)


def test_a_loop_whose_state_has_no_rank_goes_to_qonnx(tmp_path):
    body = helper.make_graph(
        [node("Identity", ["on"], "going"), node("Relu", ["h"], "next")],
        "body",
        [
            helper.make_tensor_value_info("i", TensorProto.INT64, []),
            helper.make_tensor_value_info("on", TensorProto.BOOL, []),
            info("h", None),
        ],
        [helper.make_tensor_value_info("going", TensorProto.BOOL, []), info("next", None)],
    )
    message = two_convolutions([node("Loop", ["trips", "", "a"], "r", body=body)])
    message.graph.initializer.append(numpy_helper.from_array(np.array(2, np.int64), "trips"))
    file = saved(message, tmp_path / "loop.onnx")
    done = quantize(file, target="npu-148", data=IMAGES, output=tmp_path / "q.onnx")
    module = raise_quantized(qir.load(done.written.model))
    assert export(module, tmp_path / "qonnx.onnx", profile="qonnx", data=IMAGES).mismatches == 0


@pytest.mark.parametrize("bounds", [(0.0, 0.5), (-0.25, 0.5)])
def test_encodings_of_a_file_of_codes_keep_the_clips_that_the_codes_absorbed(bounds, tmp_path):
    message = two_convolutions([node("Clip", ["a", "low", "high"], "r")])
    for name, bound in zip(("low", "high"), bounds, strict=True):
        message.graph.initializer.append(numpy_helper.from_array(np.float32(bound).reshape(()), name))
    file = saved(message, tmp_path / "clip.onnx")
    codes = quantize(file, target="npu-148", data=IMAGES, output=tmp_path / "q.onnx").written.model
    again = export(raise_quantized(qir.load(codes)), tmp_path / "e.onnx", profile="encodings", data=IMAGES)
    exact = runs(file, x=IMAGES)[0]
    assert decibels(exact, runs(again.model, x=IMAGES)[0]) >= decibels(exact, runs(codes, x=IMAGES)[0])


READ_ONCE = {
    "reader": Reader,
    "generator": lambda: ({"x": IMAGES[i : i + 4]} for i in (0, 4)),
    "iterator of arrays": lambda: iter([IMAGES[:4], IMAGES[4:]]),
}
AS_LISTS = {"reader": [{"x": IMAGES}]}


@pytest.mark.parametrize("kind", READ_ONCE)
def test_data_that_can_be_read_once_give_what_the_list_gives(kind, tmp_path):
    file = saved(two_convolutions(), tmp_path / "float.onnx")
    listed = AS_LISTS.get(kind, [IMAGES[:4], IMAGES[4:]])
    found = [
        quantize(file, target="npu-148", data=data, output=tmp_path / f"{label}.onnx").written
        for label, data in (("once", READ_ONCE[kind]()), ("list", listed))
    ]
    assert found[0].weights.read_bytes() == found[1].weights.read_bytes()
    assert found[0].samples == found[1].samples == len(IMAGES)
    np.testing.assert_array_equal(*(runs(written.model, x=IMAGES)[0] for written in found))
    module = raise_quantized(qir.load(found[0].model))
    assert export(module, tmp_path / "again.onnx", data=READ_ONCE[kind]()).samples == len(IMAGES)


def test_a_declared_rank_that_contradicts_the_operands_is_replaced_before_anything_is_changed(tmp_path):
    """ddddocr declares its result [1, seqlen]; it has three axes."""
    nodes = [
        helper.make_node("Identity", ["x"], ["i"]),
        helper.make_node("Shape", ["i"], ["all"]),
        helper.make_node("Gather", ["all", "one"], ["width"]),
        helper.make_node("Concat", ["width", "one", "rest"], ["shape"], axis=0),
        helper.make_node("Identity", ["i"], ["j"]),
        helper.make_node("Reshape", ["j", "shape"], ["y"]),
    ]
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, "w"])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, "seqlen"])],
        [numpy_helper.from_array(np.array([value]), name) for name, value in {"one": 1, "rest": -1}.items()],
    )
    path = tmp_path / "rank.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 12)], ir_version=6), path)
    module = run_passes(qir.load(path), SIMPLIFY)
    assert module.graph.outputs[0].rank == 3
