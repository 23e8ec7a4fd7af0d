"""The verdict: what counts as a rounding tie, what stands upstream, CPUs without VNNI, and exit codes."""

from __future__ import annotations

import importlib

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from typer.testing import CliRunner

import qir
from qir.backends.execution.executor import Run
from qir.backends.integer.reference import IntegerReference
from qir.cli.main import make_app
from qir.passes import export, run_passes
from qir.passes.parity.compare import SESSIONS, parity
from qir.passes.parity.judging.comparison import FLOAT_ERROR, is_tie

parity_module = importlib.import_module("qir.passes.parity.compare")
ONLY_WITH_VNNI = "exact only with VNNI (or ARM)"


def test_a_tie_is_the_nearest_code_of_a_value_within_float_error() -> None:
    largest = 200.0
    error = FLOAT_ERROR * largest
    position = np.array([2.5, 2.5, 2.5 + 0.9 * error, 2.5 + 1.1 * error, 2.4, 2.5, largest])
    found = np.array([2, 3, 2, 2, 3, 1, 200])
    assert is_tie(position, found).tolist() == [True, True, True, False, False, False, True]


@pytest.fixture
def exported(tmp_path):
    """Factory: two float nodes in front of two convolutions, as a file."""

    def make(weights: str | None = None, samples: int = 4):
        random = np.random.default_rng(0)
        nodes = [
            helper.make_node("Mul", ["x", "two"], ["n0"], name="mul"),
            helper.make_node("Add", ["n0", "one"], ["n1"], name="add"),
            helper.make_node("Conv", ["n1", "w0"], ["a"], name="first", pads=[1, 1, 1, 1]),
            helper.make_node("Relu", ["a"], ["b"], name="relu"),
            helper.make_node("Conv", ["b", "w1"], ["c"], name="second", pads=[1, 1, 1, 1]),
            helper.make_node("GlobalAveragePool", ["c"], ["d"], name="pool"),
            helper.make_node("Flatten", ["d"], ["y"], name="flatten"),
        ]
        constants = {
            "two": np.full((1, 3, 1, 1), 2, np.float32),
            "one": np.ones((1, 3, 1, 1), np.float32),
            "w0": (random.standard_normal((8, 3, 3, 3)) / 5).astype(np.float32),
            "w1": (random.standard_normal((6, 8, 3, 3)) / 5).astype(np.float32),
        }
        inputs = [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 3, 8, 8])]
        outputs = [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", 6])]
        stored = [numpy_helper.from_array(array, name) for name, array in constants.items()]
        graph = helper.make_graph(nodes, "g", inputs, outputs, stored)
        onnx.save(
            helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10), tmp_path / "f.onnx"
        )
        module = qir.load(tmp_path / "f.onnx")
        feed = random.standard_normal((samples, 3, 8, 8)).astype(np.float32)
        run_passes(module, "insert-fake-quant,calibrate", data=feed)
        written = export(module, tmp_path / "m.quant.onnx", data=feed, weights=weights)
        return qir.load(written.model), feed, written

    return make


class Engine:
    """A session that computes as the integer reference does, but for one tensor, from which it goes on."""

    def __init__(self, module: qir.Module, name: str = "", change=None, *, saturating: bool = False) -> None:
        self.module, self.name, self.change = module, name, change
        self.reference = IntegerReference(module, saturating=saturating)

    def run(self, feed):
        state = self.reference.begin(feed)
        for node in self.module.graph:
            if not node.is_return:
                state.step(node)
            for value in node.results:
                if value.name == self.name:
                    state.values[value] = self.change(state.values[value])
                    state.codes[value.name] = state.values[value]
        run = state.finish()
        return Run(run.outputs, run.codes)


@pytest.fixture
def computed_by(monkeypatch):
    """Factory: every setting of ONNX Runtime stands for an engine of the test's own."""

    def use(*options, saturating: bool = False) -> None:
        engine = Engine(*options, saturating=saturating)
        monkeypatch.setattr(parity_module, "_sessions", lambda *_: (dict.fromkeys(SESSIONS, engine), {}))

    return use


def lowered(codes):
    """The largest codes one down."""
    return codes - (codes == codes.max()).astype(codes.dtype)


def raised(codes):
    """All codes but the largest one up."""
    return codes + (codes < codes.max()).astype(codes.dtype)


def layer_of(report, name: str):
    return next(layer for layer in report.layers if layer.node == name)


@pytest.mark.named_nodes
def test_float_nodes_in_front_take_nothing_from_what_is_covered(exported) -> None:
    module, feed, _ = exported()
    report = parity(module, feed)
    assert report.verdict == "exact"
    assert {"mul", "add"} <= set(report.float_nodes)
    assert [layer.node for layer in report.layers if not layer.promised] == ["add"]
    assert report.covered == report.codes - layer_of(report, "add").codes > 0


@pytest.mark.parametrize("saturating", [False, True])
def test_a_file_has_one_verdict_with_and_without_vnni(exported, computed_by, saturating) -> None:
    module, feed, _ = exported(weights="int8")
    del module.metadata["qir.exact_on"]
    computed_by(module, saturating=saturating)
    report = parity(module, feed)
    assert report.verdict == ONLY_WITH_VNNI
    assert not report.keeps_promise
    assert report.differ("no-vnni") > 0
    assert report.faults("fused") == 0
    assert (report.differ("fused") > 0) == saturating
    assert sum(layer.saturated.get("fused", 0) for layer in report.layers) == report.differ("fused")


def test_a_file_that_says_so_keeps_its_promise_without_vnni_too(exported, computed_by) -> None:
    module, feed, _ = exported(weights="int8")
    computed_by(module, saturating=True)
    report = parity(module, feed)
    assert report.verdict == ONLY_WITH_VNNI
    assert report.keeps_promise


def test_int8_weights_that_are_asked_for_are_written_on_a_cpu_without_vnni_too(exported, monkeypatch) -> None:
    """The default session, whose codes count, stands for such a CPU."""
    sessions = parity_module._sessions

    def without_vnni(module, exposed, engines):
        found, refused = sessions(module, exposed, engines)
        return {**found, "fused": Engine(module, saturating=True)}, refused

    monkeypatch.setattr(parity_module, "_sessions", without_vnni)
    _, _, written = exported(weights="int8")
    assert written.mismatches > 0
    assert written.allowed == ()
    _, _, written = exported()
    assert written.mismatches == 0


@pytest.mark.named_nodes
def test_a_difference_in_a_layer_on_integers_is_a_fault_whatever_stands_upstream(exported, computed_by) -> None:
    module, feed, _ = exported()
    name = layer_of(parity(module, feed, engines=["fused"]), "relu").value
    computed_by(module, name, lowered)
    report = parity(module, feed, engines=["fused"])
    assert report.verdict == "broken"
    assert report.faults("fused") == report.differ("fused") == layer_of(report, "relu").faults("fused") > 0
    assert report.first["fused"].node == "relu"
    assert report.ties("fused") == 0


@pytest.mark.named_nodes
def test_what_differs_upstream_is_not_difference_of_the_layers_that_follow(exported, computed_by) -> None:
    """An engine that computes exactly from codes that differ upstream: only the layer that made them is counted."""
    module, feed, _ = exported()
    name = layer_of(parity(module, feed, engines=["fused"]), "add").value
    computed_by(module, name, lambda codes: codes ^ 1)
    report = parity(module, feed, engines=["fused"])
    assert [layer.node for layer in report.layers if layer.mismatches["fused"]] == ["add"]


@pytest.mark.named_nodes
def test_differences_at_float_layers_are_ties_only_near_a_half_step(exported, computed_by) -> None:
    module, feed, _ = exported()
    layer = layer_of(parity(module, feed, engines=["fused"]), "add")
    computed_by(module, layer.value, raised)
    found = layer_of(parity(module, feed, engines=["fused"]), "add")
    node = next(node for node in module.graph if node.op == "QuantizeLinear" and node.operands[0].name == "n1")
    scale, zero = (node.input(index).constant.numpy() for index in (1, 2))
    position = (feed * np.float32(2) + np.float32(1)).astype(np.float64) / scale + zero
    codes = np.clip(np.rint(position), 0, 255)
    moved = codes < codes.max()
    near = np.abs(codes + 1 - position) <= 0.5 + FLOAT_ERROR * np.abs(position).max()
    assert found.ties.get("fused", 0) == int((moved & near).sum())
    assert found.faults("fused") == int((moved & ~near).sum()) > 0


def test_outputs_that_no_code_stands_for_are_held_against_the_engines_own_codes(exported, computed_by) -> None:
    module, feed, _ = exported()
    computed_by(module, "y", lambda real: real + np.float32(0.01) * np.abs(real).max())
    report = parity(module, feed, engines=["fused"])
    assert report.differ("fused") == 0
    assert report.outputs_off["fused"] == 4 * 6
    assert report.verdict == "broken"


@pytest.mark.parametrize(("weights", "declared", "code"), [(None, True, 0), ("int8", True, 0), ("int8", False, 1)])
def test_the_command_exits_with_1_where_the_file_promises_more_than_it_keeps(exported, weights, declared, code) -> None:
    module, _, written = exported(weights=weights)
    if not declared:
        del module.metadata["qir.exact_on"]
        qir.save(module, written.model)
    done = CliRunner().invoke(make_app(), ["verify", str(written.model)])
    assert done.exit_code == code, done.output
    says = "exact" if weights is None else ONLY_WITH_VNNI + (", as the file says" if declared else "")
    assert done.output.splitlines()[-1].endswith(f"codes covered: {says}")


@pytest.mark.named_nodes
def test_the_command_exits_with_1_where_a_kernel_computes_something_else(exported, monkeypatch) -> None:
    module, _, written = exported()
    name = layer_of(parity(module, engines=["fused"]), "relu").value
    monkeypatch.setattr(parity_module, "_sessions", lambda *_: ({"fused": Engine(module, name, lowered)}, {}))
    done = CliRunner().invoke(make_app(), ["verify", str(written.model)])
    assert done.exit_code == 1
    assert "fused: relu: a kernel that rounds otherwise" in done.output
    assert done.output.splitlines()[-1].endswith("codes covered: broken")
