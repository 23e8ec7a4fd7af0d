"""Layers are timed one by one in ONNX Runtime, and the table of their times costs the network."""

import re
from pathlib import Path

import numpy as np
import pytest

import qir
from qir.backends import cost_table, load_target
from qir.backends.costs.fitting import fit
from qir.backends.costs.measured import Call, interleaved, measure_layers, predict_latency, single_layer
from qir.backends.execution.session import OrtSession
from qir.errors import TargetError
from qir.graph import Graph, Node
from qir.module import Module
from qir.ops import infer_graph
from qir.tensor import Tensor
from qir.types import DType, TensorType

LENET = Path(__file__).resolve().parents[3] / "models" / "trained" / "lenet_fashion_mnist.onnx"


@pytest.mark.named_nodes
def test_times_of_layers_cost_the_network_and_fit_a_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    module = qir.load(LENET)
    table, lines = measure_layers(module, repeats=2)
    layers = {name: cells for name, cells in table.delays.items() if "Conv" in name or "Gemm" in name}
    assert list(layers) == ["/conv1/Conv", "/conv2/Conv", "/fc1/Gemm", "/fc2/Gemm"]
    assert all(set(cells) == {(8, 8), (32, 32)} for cells in layers.values())
    assert all(set(cells) == {(0, 32)} for name, cells in table.delays.items() if name not in layers)
    assert all(min(cells.values()) > 0 for cells in table.delays.values())
    assert "taken off" in lines[0]
    assert all("quartiles" in line for line in lines[1:])
    assert {line.split()[0] for line in lines if "Relu" in line or "Batch" in line} == {
        "/bn3/BatchNormalization",
        "/relu_2/Relu",
    }
    monkeypatch.chdir(tmp_path)
    table.write("cpu-onnxruntime.csv")
    costs = cost_table(module, "cpu-onnxruntime")
    for widths in ((8, 8), (32, 32)):
        total = sum(cells.get(widths, cells.get((0, 32), 0.0)) for cells in table.delays.values())
        assert costs.cost([costs.uniform(*widths)])[0] == pytest.approx(total)
    found = fit(load_target("systolic-16x16"), "cpu-onnxruntime.csv")
    assert set(found.residuals) == {"convolution", "fully connected"}


def test_recurrent_networks_are_timed_in_float_at_every_width() -> None:
    graph = Graph("recurrent")
    value = graph.add_input("x", TensorType(DType.FLOAT32, (5, 1, 4)))
    weights = [graph.add_constant(name, Tensor.of(np.ones((1, 12, 4 - i), np.float32))) for i, name in enumerate("wr")]
    sizes = graph.insert(Node("Shape", (value,), ("sizes",), name="sizes", attributes={"start": 1, "end": 2})).result
    one, hidden = (graph.add_constant(name, Tensor.of(np.array([n], np.int64))) for name, n in (("one", 1), ("h", 3)))
    shape = graph.insert(Node("Concat", (one, sizes, hidden), ("shape",), name="shape", attributes={"axis": 0})).result
    zero = graph.add_constant("zero", Tensor.of(np.zeros((1, 1, 1), np.float32)))
    state = graph.insert(Node("Expand", (zero, shape), ("state",), name="state")).result
    node = graph.insert(
        Node("LSTM", (value, *weights, None, None, state), ("y",), name="lstm", attributes={"hidden_size": 3})
    )
    graph.set_outputs([node.result])
    module = Module(graph, opsets={"": 17})
    infer_graph(module)
    table, _ = measure_layers(module, repeats=1)
    assert table.layers == ["lstm"]
    assert table.at("lstm", 8, 8) == table.at("lstm", 32, 32)


def test_additions_that_fold_into_a_convolution_are_not_timed_alone() -> None:
    graph = Graph("residual")
    value = graph.add_input("x", TensorType(DType.FLOAT32, (1, 4, 8, 8)))
    weight = graph.add_constant("w", Tensor.of(np.ones((4, 4, 1, 1), np.float32)))
    conv = graph.insert(Node("Conv", (value, weight), ("c",), name="conv")).result
    added = graph.insert(Node("Add", (conv, value), ("a",), name="add")).result
    graph.set_outputs([graph.insert(Node("Relu", (added,), ("y",), name="relu")).result])
    module = Module(graph, opsets={"": 17})
    infer_graph(module)
    assert measure_layers(module, repeats=1)[0].layers == ["conv"]


def test_a_network_is_predicted_from_its_layers() -> None:
    whole, predicted = predict_latency(qir.load(LENET), repeats=3)
    assert whole.microseconds > 0
    assert whole.spread >= 0
    assert 0.3 < predicted / whole.microseconds < 3


def test_kernels_are_timed_by_op_type() -> None:
    kernels = OrtSession(qir.load(LENET)).kernel_times({"input": np.zeros((1, 1, 28, 28), np.float32)}, runs=3)
    assert {"Conv", "Gemm", "MaxPool"} < set(kernels)
    assert kernels["Conv"] > 0


@pytest.mark.named_nodes
def test_an_int8_layer_reads_and_writes_codes() -> None:
    module = qir.load(LENET)
    layer = single_layer(module, next(node for node in module.graph if node.name == "/conv2/Conv"), integer=True)
    assert [node.op for node in layer.graph] == ["DequantizeLinear", "DequantizeLinear", "Conv", "QuantizeLinear"]


def test_calls_of_a_group_run_in_turn_and_groups_alternate() -> None:
    calls: list[str] = []
    names = ("a", "b", "whole")
    call = {name: Call(lambda name=name: (calls.append(name), sum(range(200_000)))) for name in names}
    groups = [{(name, (8, 8)): call[name] for name in names[:2]}, {("whole", (8, 8)): call["whole"]}]
    found = interleaved(groups, 3)
    assert {key[0] for key in found} == set(names)
    assert all(timing.microseconds > 0 and timing.spread >= 0 for timing in found.values())
    text = "".join(name[0] for name in calls)
    assert re.fullmatch(r"(ab){2}w{2}((ab)+w+){3}", text)


def test_unknown_shapes_are_asked_for() -> None:
    graph = Graph("unknown")
    value = graph.add_input("x", TensorType(DType.FLOAT32, (1, 3, "height", 8)))
    weight = graph.add_constant("w", Tensor.of(np.zeros((4, 3, 3, 3), np.float32)))
    node = graph.insert(Node("Conv", (value, weight), ("y",), name="conv"))
    graph.set_outputs([node.result])
    with pytest.raises(TargetError, match="--shape"):
        measure_layers(Module(graph, opsets={"": 21}))
