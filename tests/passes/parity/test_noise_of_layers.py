"""Noise of each layer against the float network: held against ONNX Runtime without optimizations, tensor by tensor."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from qir import quantize
from qir.onnx_io import from_proto
from qir.passes import export, raise_quantized
from qir.passes.parity.compare import parity

IMAGES = np.random.default_rng(1).normal(size=(8, 3, 10, 10)).astype(np.float32)


def weights(*shape: int, seed: int) -> onnx.TensorProto:
    array = np.random.default_rng(seed).normal(size=shape).astype(np.float32) * np.float32(0.3)
    return numpy_helper.from_array(array, f"w{seed}")


def scalar(value: float, name: str) -> onnx.TensorProto:
    return numpy_helper.from_array(np.float32(value).reshape(()), name)


def network() -> onnx.ModelProto:
    """Clips, two layers of equal shape on one tensor, a residual, HardSwish, and an output that Identity makes."""
    pads = {"pads": [1, 1, 1, 1]}
    nodes = [
        helper.make_node("Conv", ["x", "w0"], ["a"], name="stem", **pads),
        helper.make_node("Clip", ["a", "low", "high"], ["b"], name="limit"),
        helper.make_node("Conv", ["b", "w1"], ["c"], name="left", **pads),
        helper.make_node("Conv", ["b", "w2"], ["d"], name="right", **pads),
        helper.make_node("Clip", ["c", "zero", "six"], ["e"], name="relu6"),
        helper.make_node("HardSwish", ["d"], ["f"], name="swish"),
        helper.make_node("Conv", ["e", "w3"], ["g"], name="after_relu6", **pads),
        helper.make_node("Conv", ["f", "w4"], ["h"], name="after_swish", **pads),
        helper.make_node("Add", ["g", "h"], ["i"], name="sum"),
        helper.make_node("Relu", ["i"], ["j"], name="relu"),
        helper.make_node("Conv", ["j", "w5"], ["k"], name="last"),
        helper.make_node("Identity", ["k"], ["y"], name="same"),
    ]
    constants = [weights(4, 3, 3, 3, seed=0), *(weights(4, 4, 3, 3, seed=seed) for seed in range(1, 6))]
    constants += [scalar(-0.5, "low"), scalar(1.5, "high"), scalar(0, "zero"), scalar(6, "six")]
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 3, 10, 10])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        constants,
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def plain(model: onnx.ModelProto, names: list[str]) -> dict[str, np.ndarray]:
    """Values by name, without optimizations."""
    model = onnx.ModelProto.FromString(model.SerializeToString())
    given = {output.name for output in model.graph.output}
    model.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names if name not in given)
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(model.SerializeToString(), options)
    return dict(zip(names, session.run(names, {"x": IMAGES}), strict=True))


MADE_FROM = {
    "stem.input": "x",
    "left.input": "b",
    "after_relu6.input": "e",
    "after_swish.input": "f",
    "last.input": "j",
    "last.output": "y",
}
"""Quantizer → the float network's value that it quantizes, read off the network above."""


def measured(model: onnx.ModelProto, written: onnx.ModelProto) -> dict[str, float]:
    """Decibels by value of codes, from ONNX Runtime's values of both files."""
    found = plain(written, [node.output[0] for node in written.graph.node if node.op_type == "DequantizeLinear"])
    exact = plain(model, list(MADE_FROM.values()))
    decibels = {}
    for node in written.graph.node:
        source = MADE_FROM.get(node.input[0].removesuffix(".codes"))
        if node.op_type == "DequantizeLinear" and source is not None:
            wanted = exact[source].astype(np.float64)
            noise = ((found[node.output[0]] - wanted) ** 2).sum()
            decibels[node.input[0]] = 10 * np.log10((wanted**2).sum() / noise)
    return decibels


def without_names(model: onnx.ModelProto) -> onnx.ModelProto:
    """The same network with no node names and other value names inside."""
    model = onnx.ModelProto.FromString(model.SerializeToString())
    kept = {entry.name for entry in (*model.graph.input, *model.graph.output)}
    names: dict[str, str] = {"": ""}
    for node in model.graph.node:
        node.name = ""
        for names_of in (node.input, node.output):
            for index, name in enumerate(names_of):
                new = name if name in kept else names.setdefault(name, f"v{len(names)}")
                names_of[index] = new
    for constant in model.graph.initializer:
        constant.name = names.get(constant.name, constant.name)
    del model.graph.value_info[:]
    return model


@pytest.fixture(scope="module")
def quantized(tmp_path_factory) -> tuple[onnx.ModelProto, onnx.ModelProto]:
    folder = tmp_path_factory.mktemp("noise")
    onnx.save(network(), folder / "float.onnx")
    done = quantize(folder / "float.onnx", target="npu-148", data=IMAGES, output=folder / "m.quant.onnx")
    return network(), onnx.load(done.written.model)


def noise(written: onnx.ModelProto, against: onnx.ModelProto) -> dict[str, float | None]:
    report = parity(from_proto(written), IMAGES, against=from_proto(against))
    return {layer.value: layer.sqnr for layer in report.layers}


@pytest.mark.named_nodes
def test_every_layer_has_the_noise_that_is_measured_at_its_tensor(quantized) -> None:
    model, written = quantized
    wanted = measured(model, written)
    assert len(wanted) >= len(MADE_FROM) - 1
    found = noise(written, model)
    for codes, decibels in wanted.items():
        assert found[codes] == pytest.approx(decibels, abs=0.3), codes


@pytest.mark.parametrize("renamed", ["float", "both"])
def test_names_inside_the_files_change_nothing(quantized, renamed) -> None:
    model, written = quantized
    wanted = list(noise(written, model).values())
    assert None not in wanted
    found = noise(without_names(written) if renamed == "both" else written, without_names(model))
    assert list(found.values()) == pytest.approx(wanted)


def test_names_that_lead_astray_are_not_followed(quantized) -> None:
    model, written = quantized
    wanted = noise(written, model)
    swapped = onnx.ModelProto.FromString(model.SerializeToString())
    left, right = (next(n for n in swapped.graph.node if n.name == name) for name in ("left", "right"))
    left.name, right.name = right.name, left.name
    assert noise(written, swapped) == pytest.approx(wanted)


def test_operators_on_codes_have_the_noise_of_the_other_form(quantized, tmp_path) -> None:
    model, written = quantized
    wanted = noise(written, model)
    raised = raise_quantized(from_proto(written))
    codes = export(raised, tmp_path / "codes.quant.onnx", profile="qoperator", data=IMAGES).model
    found = noise(onnx.load(codes), model)
    assert any(node.op_type == "QLinearConv" for node in onnx.load(codes).graph.node)
    assert found == pytest.approx({name: wanted[name] for name in found}, abs=0.3)


def test_an_output_that_is_an_input_is_compared(tmp_path) -> None:
    model = network()
    model.graph.node.append(helper.make_node("Identity", ["x"], ["z"], name="through"))
    model.graph.output.append(helper.make_tensor_value_info("z", TensorProto.FLOAT, ["N", 3, 10, 10]))
    onnx.save(model, tmp_path / "float.onnx")
    done = quantize(tmp_path / "float.onnx", target="npu-148", data=IMAGES, output=tmp_path / "m.quant.onnx")
    assert None not in noise(onnx.load(done.written.model), model).values()
