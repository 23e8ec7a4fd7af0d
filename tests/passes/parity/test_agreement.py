"""The outputs of a quantized network against the float network's, held against ONNX Runtime's outputs of both files."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper
from typer.testing import CliRunner

import qir
from qir import quantize
from qir.cli.main import make_app
from qir.errors import DataError
from qir.passes import export
from qir.passes.exporting.written_sizes import written_sizes
from qir.passes.parity.agreement import agreement, float_form, labels_in, written_network
from qir.tensor import Tensor

SAMPLES = np.random.default_rng(3).normal(size=(150, 3, 6, 6)).astype(np.float32)
SAMPLES += np.random.default_rng(6).normal(size=(150, 3, 1, 1)).astype(np.float32)
LABELS = np.random.default_rng(4).integers(0, 4, len(SAMPLES))
INSERT = "weight_widths=4,activation_widths=4,output_widths=4"
KINDS = {"best": TensorProto.INT64}
SHAPES = {"w": (4, 3, 3, 3), "v": (4, 4, 3, 3), "u": (5, 4, 1, 1), "m": (4, 4), "t": (6, 3)}


def network() -> onnx.ModelProto:
    """Outputs of every kind: scores, a feature map, a map of classes, tokens, gates, codes of classes."""
    pads = {"pads": [1, 1, 1, 1]}
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["a"], name="first", **pads),
        helper.make_node("Relu", ["a"], ["b"], name="relu"),
        helper.make_node("Conv", ["b", "v"], ["map"], name="second", **pads),
        helper.make_node("Conv", ["map", "u"], ["c"], name="third"),
        helper.make_node("Softmax", ["c"], ["pixels"], name="softmax", axis=1),
        helper.make_node("GlobalAveragePool", ["map"], ["d"], name="mean"),
        helper.make_node("Flatten", ["d"], ["e"], name="flat"),
        helper.make_node("Gemm", ["e", "m"], ["scores"], name="head"),
        helper.make_node("Sigmoid", ["scores"], ["gates"], name="sigmoid"),
        helper.make_node("ArgMax", ["scores"], ["best"], name="argmax", axis=1),
        helper.make_node("Reshape", ["b", "rows"], ["f"], name="rows_of"),
        helper.make_node("MatMul", ["f", "t"], ["tokens"], name="tag"),
    ]
    random = np.random.default_rng(5)
    constants = [numpy_helper.from_array(random.normal(size=s).astype(np.float32) / 3, n) for n, s in SHAPES.items()]
    constants.append(numpy_helper.from_array(np.array([0, 24, 6]), "rows"))
    outputs = ["scores", "map", "pixels", "gates", "best", "tokens"]
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 3, 6, 6])],
        [
            helper.make_tensor_value_info(n, TensorProto.INT64 if n == "best" else TensorProto.FLOAT, None)
            for n in outputs
        ],
        constants,
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    folder = tmp_path_factory.mktemp("agreement")
    onnx.save(network(), folder / "float.onnx")
    return quantize(
        folder / "float.onnx",
        target="npu-148",
        data=SAMPLES,
        output=folder / "m.quant.onnx",
        insert=INSERT,
        input_widths="4",
    )


def outputs(path) -> dict[str, np.ndarray]:
    session = onnxruntime.InferenceSession(path)
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(names, {"x": SAMPLES}), strict=True))


def decibels(exact: np.ndarray, found: np.ndarray) -> float:
    exact, found = exact.astype(np.float64), found.astype(np.float64)
    return 10 * np.log10((exact**2).sum() / max(((exact - found) ** 2).sum(), 1e-20 * (exact**2).sum()))


AXES = {"scores": 1, "pixels": 1, "tokens": 2}


def test_every_output_is_compared_as_onnx_runtime_computes_both_files(done) -> None:
    exact, found = outputs(done.written.model.parent / "float.onnx"), outputs(done.written.model)
    assert done.agreement.samples == len(SAMPLES)
    assert {output.name for output in done.agreement.outputs} == set(exact)
    for output in done.agreement.outputs:
        ours, theirs = found[output.name], exact[output.name]
        assert output.sqnr == pytest.approx(decibels(theirs, ours), abs=0.01)
        if output.name in AXES:
            ours, theirs = (array.argmax(AXES[output.name]) for array in (ours, theirs))
        decided = output.name in AXES or output.name == "best"
        assert output.decisions == (theirs.size if decided else 0)
        assert output.agreeing == (int((ours == theirs).sum()) if decided else 0)


def test_the_worst_output_comes_first_and_everything_is_plain_data(done) -> None:
    shares = [output.agreeing / output.decisions for output in done.agreement.low if output.decisions]
    assert shares == sorted(shares)
    flags = [output.low for output in done.agreement.outputs]
    assert flags == sorted(flags, reverse=True)
    assert json.loads(json.dumps(dataclasses.asdict(done.agreement), allow_nan=False))["samples"] == len(SAMPLES)


def test_labels_give_the_accuracy_of_both_networks(done) -> None:
    exact, found = outputs(done.written.model.parent / "float.onnx"), outputs(done.written.model)
    original = qir.load(done.written.model.parent / "float.onnx")
    given = labels_in({"x": SAMPLES, "labels": LABELS}, "test")
    accuracy = agreement(written_network(done.written.model), original, SAMPLES, labels=given).accuracy
    assert accuracy.samples == len(SAMPLES)
    assert accuracy.float_right == int((exact["scores"].argmax(1) == LABELS).sum())
    assert accuracy.quantized_right == int((found["scores"].argmax(1) == LABELS).sum())
    assert labels_in(SAMPLES, "test") is None


@pytest.mark.named_nodes
def test_a_damaged_layer_is_the_first_of_three_that_lose_most(done) -> None:
    original = qir.load(done.written.model.parent / "float.onnx")
    damaged = written_network(done.written.model)
    weight = next(node for node in damaged.graph if node.name == "second").input(1).producer
    wrong = Tensor.of(weight.input(1).constant.numpy() * np.float32(1.5))
    weight.set_input(1, damaged.graph.add_constant("wrong", wrong))
    found = agreement(damaged, original, SAMPLES)
    assert found.low
    assert len(found.losses) == 3
    assert found.losses[0].node == "second"
    assert found.losses[0].sqnr < found.losses[0].before
    assert found.lines()[-1].startswith("warning: far from float: ")
    assert "most is lost in second (" in found.lines()[-1]


def test_equal_outputs_without_a_signal_and_infinite_ones_have_a_ratio(tmp_path) -> None:
    nodes = [helper.make_node("Mul", ["x", "zero"], ["y"]), helper.make_node("Log", ["y"], ["z"])]
    entries = [helper.make_tensor_value_info(n, TensorProto.FLOAT, ["N", 2, 2, 2]) for n in "xyz"]
    constant = numpy_helper.from_array(np.float32(0), "zero")
    graph = helper.make_graph(nodes, "g", entries[:1], entries[1:], [constant])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), tmp_path / "m.onnx")
    module = qir.load(tmp_path / "m.onnx")
    found = agreement(module, module, np.ones((3, 2, 2, 2), np.float32))
    assert [output.sqnr for output in found.outputs] == [200.0, 200.0]
    other = module.clone()
    other.graph.inputs[0].users[0].set_input(1, other.graph.add_constant("one", Tensor.of(np.float32(1))))
    assert {output.sqnr for output in agreement(other, module, np.ones((3, 2, 2, 2), np.float32)).outputs} == {-200.0}


def test_other_networks_are_refused(done) -> None:
    other = qir.load(done.written.model.parent / "float.onnx")
    other.graph.set_outputs(other.graph.outputs[:1], ["another"])
    with pytest.raises(DataError, match="the output 'another'"):
        agreement(written_network(done.written.model), other, SAMPLES)


def test_without_quantizers_a_calibrated_network_computes_the_float_one(done) -> None:
    raised = qir.passes.raise_quantized(qir.load(done.written.model))
    assert raised.graph.fake_quants()
    plain = float_form(raised)
    assert not plain.graph.fake_quants()
    assert raised.graph.fake_quants()


def invoke(*arguments) -> str:
    result = CliRunner().invoke(make_app(), [str(argument) for argument in arguments])
    assert result.exit_code == 0, result.output
    return result.output


def test_the_verbs_end_with_the_comparison_and_say_on_which_data(done, tmp_path) -> None:
    folder = done.written.model.parent
    np.savez(tmp_path / "x.npz", x=SAMPLES[:40], labels=LABELS[:40])
    written = invoke("quantize", folder / "float.onnx", "--data", tmp_path / "x.npz", "-o", tmp_path / "m.quant.onnx")
    assert "against float, on the calibration data (40 samples):" in written
    assert "(the calibration data, 40 samples)" in written
    verified = invoke("verify", tmp_path / "m.quant.onnx", "--against", folder / "float.onnx")
    assert "against float, on random noise" in verified
    assert "holds no float weights" in invoke("export", tmp_path / "m.quant.onnx", "-o", tmp_path / "again.onnx")
    steps = ("-p", "insert-fake-quant,calibrate", "-d", tmp_path / "x.npz")
    invoke("opt", folder / "float.onnx", *steps, "-o", tmp_path / "calibrated.qir")
    exported = invoke("export", tmp_path / "calibrated.qir", "-d", tmp_path / "x.npz", "-o", tmp_path / "new.onnx")
    assert "against float, on the data given (40 samples):" in exported


@pytest.mark.parametrize(("profile", "stored"), [("qcdq", 8), ("qdq-int4", 0), ("qcdq-packed", 0), ("float", 32)])
def test_weights_that_take_more_bits_than_they_have_are_said(done, tmp_path, profile, stored) -> None:
    raised = qir.passes.raise_quantized(qir.load(done.written.model))
    report = export(raised, tmp_path / "m.quant.onnx", profile=profile, data=SAMPLES[:4])
    sizes = written_sizes(report)
    assert sizes.model == report.model.stat().st_size
    assert sizes.wider == ({4: stored} if stored else {})
    assert {"qcdq-packed", "qdq-int4"} <= set(sizes.packing) or not stored
    assert f"{sizes.model:,} bytes on disk" in sizes.lines()[0]


def test_samples_are_counted_along_their_own_axis_and_not_along_a_state(tmp_path) -> None:
    shapes = {"x": ["N", 3], "state": [7, "N", 3]}
    inputs = [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in shapes.items()]
    outputs = [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)]
    graph = helper.make_graph([helper.make_node("Add", ["x", "state"], ["y"])], "g", inputs, outputs)
    path = tmp_path / "state.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    feeds = [{"x": np.ones((2, 3), np.float32), "state": np.ones((7, 2, 3), np.float32)}] * 3
    assert agreement(qir.load(path), qir.load(path), feeds).samples == 6
