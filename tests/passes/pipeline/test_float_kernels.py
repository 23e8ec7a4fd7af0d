"""Weights that are stored as codes for kernels that compute in float: blocks of scales, embeddings, LSTM, GRU, RNN."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

import qir
from qir import quantize
from qir.backends.torch.module import TorchModule
from qir.constraints import OperandRules
from qir.errors import ExportError, QirError
from qir.fake_quant import quantizers
from qir.guide import read_guide
from qir.models.networks.text import LstmClassifier
from qir.onnx_io import from_proto, to_bytes
from qir.onnx_io import load as from_bytes
from qir.packing import unpack
from qir.passes import PassContext, PassManager, VerifyEach, apply_policy, bit_constraints, export, parse_pipeline
from qir.passes.analysis.quantized_layers import quantized_layers, stored_weights

FLOAT, INT64 = TensorProto.FLOAT, TensorProto.INT64
GENERATOR = np.random.default_rng(0)


def normal(*shape: int) -> np.ndarray:
    return GENERATOR.normal(size=shape).astype(np.float32)


def module_of(nodes, inputs, output, opset=17, **constants):
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info(name, element, shape) for name, element, shape in inputs],
        [helper.make_tensor_value_info(output, FLOAT, None)],
        [numpy_helper.from_array(array, name.replace("_", ".")) for name, array in constants.items()],
    )
    return from_proto(helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=10))


def calibrated(module, data, options: str = "weight_widths=4|8,activation_widths=8", reports=None):
    pipeline = parse_pipeline(f"insert-fake-quant{{{options}}},calibrate")
    PassManager(pipeline, [VerifyEach()]).run(module, PassContext(calibration_data=data, reports=reports))
    return module


def convolution(opset: int):
    """3x3 convolution of 10 channels, the last block of 4 short; Gemm after it."""
    nodes = [
        helper.make_node("Conv", ["x", "conv.weight", "conv.bias"], ["c"], name="conv", pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["c"], ["r"], name="relu"),
        helper.make_node("GlobalAveragePool", ["r"], ["p"], name="pool"),
        helper.make_node("Flatten", ["p"], ["f"], name="flatten"),
        helper.make_node("Gemm", ["f", "fc.weight", "fc.bias"], ["y"], name="fc", transB=1),
    ]
    constants = {"conv_weight": normal(12, 10, 3, 3), "conv_bias": normal(12), "fc_weight": normal(5, 12)}
    return module_of(nodes, [("x", FLOAT, ["n", 10, 6, 6])], "y", opset, **constants, fc_bias=normal(5))


def recurrent(op: str, gates: int):
    """Token ids through an embedding, a recurrent layer with a given state, and a Gemm on the last output."""
    hidden = 8
    nodes = [
        helper.make_node("Gather", ["table.weight", "tokens"], ["e"], name="embedding"),
        helper.make_node("Transpose", ["e"], ["t"], name="turn", perm=[1, 0, 2]),
        helper.make_node(op, ["t", "w", "r", "b", "", "state"], ["", "last"], name="cell", hidden_size=hidden),
        helper.make_node("Squeeze", ["last", "axis"], ["s"], name="squeeze"),
        helper.make_node("Gemm", ["s", "fc.weight", "fc.bias"], ["y"], name="fc", transB=1),
    ]
    constants = {
        "table_weight": normal(30, 6),
        "w": normal(1, gates * hidden, 6),
        "r": normal(1, gates * hidden, hidden),
        "b": normal(1, 2 * gates * hidden),
        "axis": np.asarray([0], np.int64),
        "fc_weight": normal(4, hidden),
        "fc_bias": normal(4),
    }
    return module_of(nodes, [("tokens", INT64, ["n", 5]), ("state", FLOAT, [1, "n", hidden])], "y", **constants)


def tokens(samples: int = 16) -> dict[str, np.ndarray]:
    """One batch: the state's first axis is not a batch."""
    return {"tokens": GENERATOR.integers(0, 30, (samples, 5)), "state": normal(1, samples, 8)}


@pytest.mark.named_nodes
@pytest.mark.parametrize("opset", [17, 21])
@pytest.mark.parametrize("scheme", ["uniform", "uniform-asymmetric"])
def test_blocks_are_exported_exactly(tmp_path, opset: int, scheme: str) -> None:
    x = normal(16, 10, 6, 6)
    options = f"weight_widths=4|8,activation_widths=8,block=4,weight_scheme={scheme}"
    module = calibrated(convolution(opset), x, options)
    found = quantizers(module.graph)
    assert (found["conv.weight"].granularity.axis, found["conv.weight"].granularity.size) == (1, 4)
    assert found["conv.weight"].calibration.shape == (2, 12 * 3 * 9, 2)
    apply_policy(module, {"conv.weight": 4, "fc.weight": 4})
    report = export(module, tmp_path / "model.onnx", data=x)
    assert {name for name, _ in report.emulated} >= {"conv", "fc"}
    written = onnx.load(report.model)
    native = [n for n in written.graph.node if any(a.name == "block_size" for a in n.attribute)]
    assert bool(native) == (opset == 21)
    weights = [node.operands[0].constant.numpy() for node in module.graph.fake_quants() if node.operands[0].is_constant]
    assert sum(layer.weight_tensor is not None for layer in quantized_layers(module.graph)) == 0
    assert len(list(stored_weights(module.graph))) == len(weights) == 2
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(str(report.model), options, providers=["CPUExecutionProvider"])
    ours = TorchModule(module)(torch.from_numpy(x))[0].detach().numpy()
    step = float(found["fc.output"].grid().scale[0])
    np.testing.assert_allclose(session.run(None, {"x": x})[0], ours, atol=1.01 * step)


def test_blocks_have_a_smaller_error_than_channels() -> None:
    x = normal(16, 10, 6, 6)

    def error(options: str) -> float:
        module = calibrated(convolution(17), x, f"weight_widths=3,activation_widths=8,{options}")
        node = quantizers(module.graph)["conv.weight"]
        network = TorchModule(module)
        weight = torch.from_numpy(node.source.constant.numpy().copy())
        return float((network._fake_quantize(node, [weight]) - weight).square().mean())

    assert error("block=4") < error("per_channel=true") < error("per_channel=false")


def test_blocks_survive_text_and_file() -> None:
    module = calibrated(convolution(17), normal(4, 10, 6, 6), "weight_widths=4,activation_widths=8,block=4")
    text = qir.print_module(module)
    assert "block = 4" in text
    assert qir.print_module(qir.parse(text)) == text
    read = quantizers(from_bytes(to_bytes(module)).graph)
    assert read["conv.weight"].granularity.size == 4


def test_a_short_axis_keeps_its_channels() -> None:
    found = quantizers(calibrated(convolution(17), normal(4, 10, 6, 6), "block=10").graph)
    assert (found["conv.weight"].granularity.axis, found["conv.weight"].granularity.size) == (0, None)
    assert found["fc.weight"].granularity.size == 10


def test_a_profile_without_blocks_refuses_them(tmp_path) -> None:
    x = normal(4, 10, 6, 6)
    module = calibrated(convolution(17), x, "weight_widths=4,activation_widths=8,block=4")
    with pytest.raises(ExportError, match=r"conv\.weight.*qonnx.*blocks of scales.*qcdq"):
        export(module, tmp_path / "model.onnx", profile="qonnx", data=x)


@pytest.mark.named_nodes
@pytest.mark.parametrize(("op", "gates"), [("LSTM", 4), ("GRU", 3), ("RNN", 1)])
def test_recurrent_layers_and_embeddings_are_quantized_and_exported(tmp_path, op: str, gates: int) -> None:
    feed = tokens()
    left = {}
    module = calibrated(recurrent(op, gates), [feed], reports=left)
    found = quantizers(module.graph)
    assert {"table.weight", "cell.weight", "cell.recurrence", "cell.state", "fc.input", "fc.weight"} <= set(found)
    assert "cell.input" not in found
    assert "step to step" in left["insert-fake-quant"]["cell"]
    assert found["cell.weight"].granularity.axis == found["cell.recurrence"].granularity.axis == 1
    apply_policy(module, {"cell.weight": 4, "cell.recurrence": 4})
    report = export(module, tmp_path / "model.onnx", data=[feed])
    assert {name for name, _ in report.emulated} == {"embedding", "cell"}
    session = onnxruntime.InferenceSession(str(report.model), providers=["CPUExecutionProvider"])
    network = TorchModule(module)
    ours = network(*(torch.from_numpy(feed[value.name]) for value in module.graph.inputs))[0].detach().numpy()
    written = session.run(None, feed)[0]
    assert (written != ours).mean() <= 0.05
    np.testing.assert_allclose(written, ours, atol=0.1)


@pytest.mark.named_nodes
def test_the_guide_holds_stored_weights_and_where_their_codes_lie(tmp_path) -> None:
    feed = tokens()
    module = calibrated(recurrent("LSTM", 4), [feed])
    report = export(module, tmp_path / "model.onnx", data=[feed])
    guide = read_guide(report.guide)
    entries = {entry.name: entry for entry in guide.stored_weights}
    assert set(entries) == {"table.weight", "cell.weight", "cell.recurrence"}
    entry = entries["cell.recurrence"]
    packed = entry.packed_weight
    assert packed is not None
    data = report.weights.read_bytes()[packed.offset : packed.offset + packed.length]
    codes = unpack(data, int(np.prod(packed.shape)), packed.bits, entry.weight.low_code).reshape(packed.shape)
    scale = np.asarray(entry.weight.scale, np.float32).reshape(1, -1, 1)
    weight = quantizers(module.graph)["cell.recurrence"]
    values = weight.source.constant.numpy()
    assert np.abs(codes * scale - values).max() <= scale.max() / 2 + 1e-6


@pytest.mark.named_nodes
def test_the_pairs_of_a_recurrent_layer_tie_input_state_and_weights() -> None:
    module = calibrated(recurrent("LSTM", 4), [tokens()], "weight_widths=4|8,activation_widths=4|8,input_widths=all")
    constraints = bit_constraints(module, OperandRules((4, 8), (4, 8), frozenset({(4, 4), (8, 8)})))
    pairs = {(relation.first, relation.second) for relation in constraints.relations}
    assert {("table.weight", "cell.weight"), ("cell.state", "cell.recurrence")} <= pairs
    assert "cell.weight" in constraints.implied
    policy = constraints.uniform(4)
    assert policy["cell.recurrence"] == policy["cell.state"] == 4


@pytest.mark.named_nodes
def test_an_initial_state_of_zeros_has_no_quantizer() -> None:
    module = recurrent("GRU", 3)
    state = module.graph.inputs[1]
    cell = next(node for node in module.graph if node.op == "GRU")
    cell.set_input(5, module.graph.add_constant("zeros", qir.tensor.Tensor.of(np.zeros((1, 16, 8), np.float32))))
    module.graph.remove_input(state)
    found = quantizers(calibrated(module, [{"tokens": tokens()["tokens"]}]).graph)
    assert "cell.state" not in found
    relations = bit_constraints(module, OperandRules((8,), (4, 8))).relations
    assert ("table.weight", "cell.recurrence") in {(r.first, r.second) for r in relations}


@pytest.mark.named_nodes
def test_rows_of_an_embedding_with_blocks_get_a_quantizer_after_them() -> None:
    module = calibrated(recurrent("GRU", 3), [tokens()], "weight_widths=4,activation_widths=8,block=4")
    found = quantizers(module.graph)
    assert found["table.weight"].granularity.size == 4
    assert found["cell.input"].source.producer.op == "Gather"


def test_blocks_have_one_width() -> None:
    module = calibrated(convolution(17), normal(4, 10, 6, 6), "weight_widths=4|8,activation_widths=8,block=4")
    with pytest.raises(QirError, match=r"conv\.weight.*blocks of scales"):
        apply_policy(module, {"conv.weight": (4,) * 12})


@pytest.mark.named_nodes
@pytest.mark.filterwarnings("ignore")
def test_the_text_network_is_searched_and_exported(tmp_path) -> None:
    """AutoQNN's LSTM classifier (seed 003, section 5.2.1), smaller: half of the bits of its weights."""
    torch.manual_seed(0)
    network = LstmClassifier(vocabulary=50, embedding=8, units=16).eval()
    path, x = tmp_path / "text.onnx", torch.randint(0, 50, (4, 6))
    torch.onnx.export(
        network, (x,), path, input_names=["tokens"], dynamic_axes={"tokens": {0: "n"}}, opset_version=17, dynamo=False
    )
    data = GENERATOR.integers(0, 50, (32, 6))
    done = quantize(path, target="npu-148", data=data, budgets={"size": "0.6x"}, output=tmp_path / "q.onnx")
    assert done.result is not None
    assert done.result.status == "optimal"
    assert done.written.mismatches == 0
    stored = {entry.name: entry.weight.bits for entry in read_guide(done.written.guide).stored_weights}
    assert set(stored) == {"embedding.weight", "/lstm/LSTM.weight", "/lstm/LSTM.recurrence"}
    assert set(stored.values()) <= {4, 8}
    session = onnxruntime.InferenceSession(str(done.written.model), providers=["CPUExecutionProvider"])
    wanted = network(torch.from_numpy(data)).detach().numpy()
    found = session.run(None, {"tokens": data})[0]
    assert np.linalg.norm(found - wanted) < 0.5 * np.linalg.norm(wanted)


def test_bits_of_a_network_with_two_inputs_are_chosen(tmp_path) -> None:
    path = tmp_path / "gru.onnx"
    qir.save(recurrent("GRU", 3), path)
    feeds = [tokens() for _ in range(3)]
    done = quantize(path, target="npu-148", data=feeds, budgets={"size": "0.9x"}, output=tmp_path / "q.onnx")
    assert done.result is not None
    assert done.result.status == "optimal"
    assert min(done.result.policy.values()) < 8
