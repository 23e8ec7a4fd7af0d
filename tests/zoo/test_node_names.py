"""Node names are optional in ONNX and need not differ: without them, or with one for all, nothing changes."""

from __future__ import annotations

import json

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

import qir
import qir.models
from qir import quantize
from qir.backends import cost_table, load_target
from qir.models.builders import NETWORKS, export_onnx
from qir.passes import PassContext, PassManager, export, parse_pipeline, raise_quantized
from qir.passes.correction.correct import CorrectChannels
from qir.passes.parity.compare import parity
from qir.passes.simplify.name_nodes import with_names

NAMES = {"without names": "", "with one name for all": "node"}
SMALL = {"vgg-like": {"width": 0.25}, "lstm-text": {"units": 16}}


def normal(*shape, seed=0, scale=0.3):
    return (np.random.default_rng(seed).standard_normal(shape) * scale).astype(np.float32)


def node(op, inputs, output, **attributes):
    return helper.make_node(op, inputs, [output], name=f"{output}/{op}", **attributes)


def model(nodes, shape, constants, output="y"):
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", *shape])],
        [helper.make_tensor_value_info(output, TensorProto.FLOAT, None)],
        [numpy_helper.from_array(array, name) for name, array in constants.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def chain():
    """Five convolutions whose channels need correction by different amounts."""
    nodes, constants, value = [], {}, "x"
    for i in range(5):
        constants[f"w{i}"] = normal(8, 8, 3, 3, seed=10 + i, scale=0.18 * (1 + i % 3))
        constants[f"b{i}"] = normal(8, seed=20 + i, scale=0.5)
        nodes.append(node("Conv", [value, f"w{i}", f"b{i}"], f"c{i}", pads=[1, 1, 1, 1]))
        nodes.append(node("Relu", [f"c{i}"], f"r{i}"))
        value = f"r{i}"
    return model(nodes, (8, 12, 12), constants, value), normal(16, 8, 12, 12, seed=1, scale=1)


def shared_weight():
    """Three layers that read one weight and one bias, of which nothing may be scaled for one layer alone."""
    nodes, value = [], "x"
    for i in range(3):
        nodes += [node("Gemm", [value, "w", "b"], f"g{i}"), node("Relu", [f"g{i}"], f"r{i}")]
        value = f"r{i}"
    constants = {"w": normal(16, 16, seed=2), "b": normal(16, seed=3)}
    return model(nodes, (16,), constants, value), normal(64, 16, seed=1, scale=1)


def attention():
    """Products of activations, a residual, a concatenation and a branch that is chosen at run time."""
    branches = {
        name: helper.make_graph(
            [node(op, ["joined"], f"{name}_out")],
            name,
            [],
            [helper.make_tensor_value_info(f"{name}_out", TensorProto.FLOAT, None)],
        )
        for name, op in (("then_branch", "Neg"), ("else_branch", "Relu"))
    }
    nodes = [
        node("MatMul", ["x", "q"], "queries"),
        node("MatMul", ["x", "k"], "keys"),
        node("MatMul", ["x", "v"], "values"),
        node("Transpose", ["keys"], "turned", perm=[0, 2, 1]),
        node("MatMul", ["queries", "turned"], "scores"),
        node("Softmax", ["scores"], "weights", axis=-1),
        node("MatMul", ["weights", "values"], "mixed"),
        node("Add", ["mixed", "x"], "added"),
        node("Concat", ["added", "values"], "joined", axis=2),
        node("ReduceMean", ["x"], "mean", keepdims=0),
        node("Greater", ["mean", "zero"], "positive"),
        node("If", ["positive"], "chosen", **branches),
        node("MatMul", ["chosen", "last"], "y"),
    ]
    constants = {name: normal(8, 8, seed=i) for i, name in enumerate("qkv")}
    constants |= {"last": normal(16, 8, seed=5), "zero": np.float32(0).reshape(())}
    return model(nodes, (6, 8), constants), normal(32, 6, 8, seed=1, scale=1)


HAND_MADE = {"chain": chain, "shared weight": shared_weight, "attention": attention}
SHIPPED = ("lenet", "residual", "resnet20")
BUILT = ("lenet-plain", "lenet-5", "simplenet-5", "vgg-like", "lstm-text")
LONG = ("residual", "resnet20", "lenet-plain", "vgg-like", "simplenet-5", "lstm-text")


def network_of(name, folder):
    """An ONNX file's message and calibration data."""
    if name in HAND_MADE:
        return HAND_MADE[name]()
    if name in SHIPPED:
        return onnx.load(qir.models.path(name)), qir.models.fashion_mnist("calibration").images[:32]
    entry, random = NETWORKS[name], np.random.default_rng(0)
    shape = (8, *entry.input_shape)
    data = random.integers(0, 5000, shape) if entry.takes_tokens else random.random(shape, np.float32)
    return onnx.load(export_onnx(name, folder / "built.onnx", **SMALL.get(name, {}))), data


def rename(graph, name):
    """Give every node of a graph and its subgraphs one name."""
    for found in graph.node:
        found.name = name
        for attribute in found.attribute:
            if attribute.HasField("g"):
                rename(attribute.g, name)


def renamed(message, name):
    made = onnx.ModelProto()
    made.CopyFrom(message)
    rename(made.graph, name)
    return made


def saved(message, path):
    onnx.save(message, path)
    return path


def runs(path, data):
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    return session.run(None, {session.get_inputs()[0].name: data})


def told(done, float_file, data):
    """What quantizing wrote, without names: outputs, packed weights, bits, costs, noise of each layer."""
    guide = json.loads(done.written.guide.read_text())
    report = parity(qir.load(done.written.model), data[:4], against=qir.load(float_file), engines=["plain"])
    return {
        "outputs": [output.tolist() for output in runs(done.written.model, data)],
        "weights": done.written.weights.read_bytes(),
        "bits": [layer["operand_pair"] for layer in guide["layers"]],
        "costs": [layer["cost"] for layer in guide["layers"]],
        "steps": [step["cost"] for step in guide["steps"]],
        "execution": [(layer["execution"], layer["emulation"]) for layer in guide["layers"]],
        "left float": list(done.left_float.values()),
        "noise": [layer.sqnr for layer in report.layers],
        "floats": len(report.float_nodes),
    }


@pytest.mark.parametrize("names", NAMES.values(), ids=NAMES)
@pytest.mark.parametrize(
    "network",
    [pytest.param(name, marks=[pytest.mark.slow] if name in LONG else []) for name in (*HAND_MADE, *SHIPPED, *BUILT)],
)
def test_a_network_is_quantized_alike_whatever_its_nodes_are_called(network, names, tmp_path):
    message, data = network_of(network, tmp_path)
    found = []
    for label, made in (("own", message), ("other", renamed(message, names))):
        file = saved(made, tmp_path / f"{label}.onnx")
        done = quantize(file, target="npu-148", data=data, output=tmp_path / f"{label}.quant.onnx")
        found.append(told(done, file, data))
    assert found[0] == found[1]


@pytest.mark.parametrize("names", NAMES.values(), ids=NAMES)
@pytest.mark.parametrize("network", [*HAND_MADE, "residual"])
def test_a_network_costs_the_same_whatever_its_nodes_are_called(network, names, tmp_path):
    message, _ = network_of(network, tmp_path)
    target = load_target("bitfusion-e")
    modules = [qir.load(made.SerializeToString()) for made in (message, renamed(message, names))]
    tables = [cost_table(module, target) for module in modules]
    rows = [[(row.op, row.step, row.part, row.matrix("cycles").tolist()) for row in table] for table in tables]
    np.testing.assert_equal(*rows)
    assert len(tables[0].widths) == len(tables[1].widths)
    labels = {row.step: row.name for row in tables[1]}
    assert len(set(labels.values())) == len(labels)


@pytest.mark.parametrize("names", NAMES.values(), ids=NAMES)
@pytest.mark.parametrize("network", HAND_MADE)
def test_a_raised_file_is_exported_alike_whatever_its_nodes_are_called(network, names, tmp_path):
    message, data = network_of(network, tmp_path)
    file = saved(message, tmp_path / "own.onnx")
    own = quantize(file, target="npu-148", data=data, output=tmp_path / "own.quant.onnx").written.model
    outputs = []
    for label, made in (("own", onnx.load(own)), ("other", renamed(onnx.load(own), names))):
        made.ClearField("metadata_props")
        module = raise_quantized(qir.load(made.SerializeToString()))
        written = export(module, tmp_path / f"{label}.again.onnx", data=data)
        outputs.append([output.tolist() for output in runs(written.model, data)])
    assert outputs[0] == outputs[1]


@pytest.mark.parametrize("names", NAMES.values(), ids=NAMES)
def test_the_passes_of_correction_alone_know_nodes_apart(names, tmp_path):
    message, data = chain()
    steps = "fold-batchnorm,infer-types,insert-fake-quant,calibrate"
    weights = []
    for made in (message, renamed(message, names)):
        module = qir.load(made.SerializeToString())
        context = PassContext(target=load_target("npu-148"), calibration_data=data)
        PassManager([*parse_pipeline(steps), CorrectChannels()]).run(module, context)
        weights.append([value.constant.numpy() for value in module.graph.constants])
    for one, other in zip(*weights, strict=True):
        np.testing.assert_array_equal(one, other)


def test_correction_leaves_a_weight_that_several_layers_read(tmp_path):
    message, data = shared_weight()
    file = saved(message, tmp_path / "float.onnx")
    noise = []
    for correct in (False, True):
        done = quantize(file, target="npu-148", data=data, output=tmp_path / "q.onnx", correct=correct)
        (exact,), (found,) = runs(file, data), runs(done.written.model, data)
        noise.append(float(((found - exact) ** 2).sum()))
    assert noise[1] <= noise[0] * 1.05


@pytest.mark.parametrize(("place", "name"), [(1, "c0/Conv.input.quantize"), (1, "c4/Conv"), (3, "c0/Conv.weight")])
def test_names_of_the_written_nodes_differ_whatever_the_file_calls_its_own(place, name, tmp_path):
    message, data = chain()
    expected = quantize(saved(message, tmp_path / "a.onnx"), target="npu-148", data=data, output=tmp_path / "a.q.onnx")
    message.graph.node[place].name = name
    found = quantize(saved(message, tmp_path / "b.onnx"), target="npu-148", data=data, output=tmp_path / "b.q.onnx")
    names = [node.name for node in onnx.load(found.written.model).graph.node]
    assert len({*names}) == len(names)
    assert [a.tolist() for a in runs(found.written.model, data)] == [
        a.tolist() for a in runs(expected.written.model, data)
    ]
    policy = json.loads(qir.load(found.written.model).metadata["qir.policy"])
    raised = raise_quantized(qir.load(found.written.model))
    assert {quantizer.name for quantizer in raised.graph.fake_quants()} == {*policy}


@pytest.mark.named_nodes
def test_a_module_whose_names_differ_is_not_copied():
    message, _ = chain()
    module = qir.load(message.SerializeToString())
    assert with_names(module) is module
    other = with_names(qir.load(renamed(message, "").SerializeToString()))
    assert [found.name for found in other.graph][:2] == ["c0", "r0"]
