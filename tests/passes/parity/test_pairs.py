"""Any two executors: a code that differs is a tie, clipped, inherited from other codes, or a fault of one of them."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

import qir
from qir.backends.execution.executor import Run
from qir.backends.integer.reference import IntegerReference
from qir.passes import export, run_passes
from qir.passes.parity import compare as compare_module
from qir.passes.parity.compare import compare_two
from qir.passes.parity.judging.comparison import FLOAT_ERROR


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """(network, samples): a node on floats in front of two layers whose int8 weights can clip."""
    random = np.random.default_rng(0)
    constants = {
        "two": np.full(1, 2, np.float32),
        "a": random.choice([-1, 1], (32, 16)).astype(np.float32),
        "b": random.normal(size=(16, 8)).astype(np.float32),
    }
    nodes = [
        helper.make_node("Mul", ["x", "two"], ["m"], name="mul"),
        helper.make_node("Gemm", ["m", "a"], ["h"], name="first"),
        helper.make_node("Relu", ["h"], ["r"], name="relu"),
        helper.make_node("Gemm", ["r", "b"], ["y"], name="second"),
    ]
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["N", size]) for name, size in (("x", 32), ("y", 8))]
    stored = [numpy_helper.from_array(array, name) for name, array in constants.items()]
    graph = helper.make_graph(nodes, "g", ends[:1], ends[1:], stored)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    module, samples = qir.load(model.SerializeToString()), random.normal(size=(8, 32)).astype(np.float32)
    run_passes(module, "insert-fake-quant,calibrate{method=minmax}", data=samples)
    path = tmp_path_factory.mktemp("pairs") / "m.quant.onnx"
    export(module, path, data=samples, weights="int8", allow_mismatches=True)
    return qir.load(path), samples


class Changed:
    """The integer reference with one tensor of codes changed, and everything after it computed from those."""

    def __init__(self, module, name, change):
        self.module, self.name, self.change = module, name, change

    def run(self, feed) -> Run:
        state = IntegerReference(self.module).begin(feed)
        for node in self.module.graph:
            if not node.is_return:
                state.step(node)
                if node.result.name == self.name:
                    codes = self.change(state.values[node.result])
                    state.values[node.result] = state.codes[self.name] = codes
        return state.finish()


@pytest.fixture
def against(exported, monkeypatch):
    """Factory: what the reference and one with changed codes compute differently, by node."""
    module, samples = exported
    made = compare_module.executor

    def held(name, change):
        changed = Changed(module, name, change)
        monkeypatch.setattr(
            compare_module,
            "executor",
            lambda called, network, **options: changed if called == "plain" else made(called, network, **options),
        )
        return {layer.node: layer for layer in compare_two(module, "integer", "plain", samples).layers}

    return held


def codes_of(module, node):
    """Name of the codes of a node's result."""
    result = next(found for found in module.graph if found.name == node).result
    return next(user for user in result.users if user.op == "QuantizeLinear").result.name


@pytest.mark.named_nodes
def test_what_follows_from_other_codes_is_inherited(exported, against) -> None:
    module, _ = exported
    layers = against(codes_of(module, "relu"), lambda codes: codes ^ 2)
    assert set(layers) == {"relu", "second"}
    assert layers["relu"].faults == {"plain": layers["relu"].mismatches}
    assert layers["second"].inherited == layers["second"].mismatches > 0


@pytest.mark.named_nodes
def test_a_code_next_to_a_half_step_is_a_tie_and_any_other_a_fault(exported, against) -> None:
    module, samples = exported
    name = codes_of(module, "mul")
    node = next(node for node in module.graph if node.op == "QuantizeLinear" and node.result.name == name)
    scale, zero = (node.input(index).constant.numpy() for index in (1, 2))
    position = (samples * np.float32(2)).astype(np.float64) / scale + zero
    codes = np.clip(np.rint(position), 0, 255)
    raised = codes < 255
    near = np.abs(codes + 1 - position) <= 0.5 + FLOAT_ERROR * np.abs(position).max()
    layer = against(name, lambda codes: codes + (codes < 255).astype(codes.dtype))["mul"]
    assert layer.mismatches == raised.sum()
    assert layer.ties == (raised & near).sum()
    assert layer.faults == {"plain": (raised & ~near).sum()}


def test_sums_that_clip_are_told_from_faults(exported) -> None:
    layers = compare_two(exported[0], "integer", "no-vnni", exported[1]).layers
    assert sum(layer.saturated for layer in layers) > 0
    assert all(layer.saturated + layer.inherited == layer.mismatches for layer in layers)


def test_other_arithmetic_rounds_ties_alone(exported) -> None:
    """Float32 multipliers and exact ones differ where the exact value lies next to a half step."""
    for layer in compare_two(exported[0], "no-vnni", "dyadic", exported[1]).layers:
        assert not layer.faults


def test_torch_shows_the_codes_of_a_file_too(exported) -> None:
    report = compare_two(exported[0], "torch", "unfused", exported[1])
    assert report.differences.codes == 8 * (32 + 16 + 8)
    assert not report.unjudged
    assert all(layer.ties + layer.inherited == layer.mismatches for layer in report.layers)


def test_executors_without_codes_are_compared_by_their_outputs(exported) -> None:
    report = compare_two(exported[0], "simulation", "fused", exported[1])
    assert report.layers == ()
    assert report.unjudged == "one of the two shows no codes"
    assert report.differences.elements == 64
