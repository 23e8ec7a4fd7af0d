"""Every executor answers the same call, and any two of them can be held against each other."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator
from typer.testing import CliRunner

import qir
from qir.backends.execution.pairs import Differences
from qir.backends.execution.random_feed import random_feed
from qir.cli.main import make_app
from qir.errors import DataError, QirError
from qir.passes.exporting.export import export
from qir.passes.infrastructure.contract import PassContext
from qir.passes.infrastructure.manager import PassManager
from qir.passes.infrastructure.pipeline import parse_pipeline
from qir.passes.parity.compare import compare_two
from qir.passes.parity.executors import EXECUTORS, executor
from qir.types import DType, TensorType


def network(inputs, nodes, outputs, constants=()):
    graph = helper.make_graph(nodes, "g", inputs, outputs, [numpy_helper.from_array(a, n) for n, a in constants])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    onnx.checker.check_model(model, full_check=True)
    return model


def info(name, kind, shape):
    return helper.make_tensor_value_info(name, kind, shape)


@pytest.fixture(scope="module")
def quantized(tmp_path_factory):
    """(calibrated network, exported network, its path, samples): two layers of one bit less than eight."""
    weights = np.random.default_rng(0).standard_normal((2, 4, 4)).astype(np.float32) / 2
    nodes = [
        helper.make_node("Gemm", ["x", "a"], ["h"], name="first"),
        helper.make_node("Relu", ["h"], ["r"], name="relu"),
        helper.make_node("Gemm", ["r", "b"], ["y"], name="second"),
    ]
    model = network(
        [info("x", TensorProto.FLOAT, ["N", 4])],
        nodes,
        [info("y", TensorProto.FLOAT, ["N", 4])],
        list(zip("ab", weights, strict=True)),
    )
    module = qir.load(model.SerializeToString())
    samples = np.random.default_rng(1).standard_normal((8, 4)).astype(np.float32)
    pipeline = parse_pipeline("insert-fake-quant{weight_widths=7},calibrate")
    PassManager(pipeline).run(module, PassContext(calibration_data=samples))
    path = tmp_path_factory.mktemp("exported") / "m.quant.onnx"
    export(module, path, data=samples)
    return module, qir.load(path), path, samples


@pytest.mark.parametrize("name", [name for name in EXECUTORS if name not in ("qonnx", "power-of-two")])
def test_every_executor_computes_what_onnx_says_of_the_exported_file(quantized, name) -> None:
    _, exported, path, samples = quantized
    (expected,) = ReferenceEvaluator(str(path)).run(None, {"x": samples})
    step = np.abs(expected).max() / 50
    assert np.abs(executor(name, exported).run({"x": samples}).outputs["y"] - expected).max() <= step


def test_an_executor_of_codes_takes_a_network_with_fake_quant_nodes(quantized) -> None:
    module, exported, _, samples = quantized
    first, second = (executor("fused", each).run({"x": samples}).outputs["y"] for each in (module, exported))
    np.testing.assert_array_equal(first, second)


def test_codes_of_onnxruntime_and_of_the_reference_are_compared_by_name(quantized) -> None:
    _, exported, _, samples = quantized
    found = compare_two(exported, "integer", "fused", samples).differences
    assert found.codes > samples.size
    assert not found.mismatches
    assert (found.samples, found.unequal, found.flips) == (8, 0, 0)


def test_differences_count_codes_outputs_and_decisions() -> None:
    from qir.backends.execution.executor import Run

    found = Differences()
    expected = Run({"y": np.array([[1.0, 2.0], [4.0, 3.0]], np.float32)}, {"c": np.array([1, 2], np.uint8)})
    other = Run({"y": np.array([[2.0, 2.0], [1.0, 3.0]], np.float32)}, {"c": np.array([1, 255], np.uint8)})
    found.add({"x": np.zeros((2, 1))}, expected, other)
    assert (found.samples, found.elements, found.unequal, found.largest, found.flips) == (2, 4, 2, 3.0, 2)
    assert (found.codes, found.mismatches) == (2, {"c": 1})


def test_an_unknown_executor_is_refused_with_the_names(quantized) -> None:
    with pytest.raises(QirError, match="expected one of integer, no-vnni"):
        executor("quick", quantized[1])


def test_the_command_compares_a_pair(quantized) -> None:
    done = CliRunner().invoke(make_app(), ["verify", str(quantized[2]), "--pair", "plain,fused"])
    assert done.exit_code == 0, done.output
    assert done.output.startswith("plain and fused differ in 0 of ")


def test_random_tokens_are_rows_of_their_table_and_masks_are_bool() -> None:
    model = network(
        [info("tokens", TensorProto.INT64, ["N", 5]), info("mask", TensorProto.BOOL, ["N"])],
        [
            helper.make_node("Cast", ["tokens"], ["index"], to=TensorProto.INT32),
            helper.make_node("Gather", ["table", "index"], ["rows"]),
            helper.make_node("Where", ["mask", "one", "two"], ["z"]),
        ],
        [info("rows", TensorProto.FLOAT, ["N", 5, 3]), info("z", TensorProto.FLOAT, ["N"])],
        [("table", np.ones((2, 3), np.float32)), ("one", np.ones(1, np.float32)), ("two", np.zeros(1, np.float32))],
    )
    feed = random_feed(qir.load(model.SerializeToString()), samples=64)
    assert feed["tokens"].dtype == np.int64
    assert set(feed["tokens"].reshape(-1)) == {0, 1}
    assert feed["mask"].dtype == np.bool_
    assert ReferenceEvaluator(model).run(None, feed)[0].shape == (64, 5, 3)


def test_an_input_without_a_shape_asks_for_data(quantized) -> None:
    module = qir.load(quantized[2])
    (value,) = module.graph.inputs
    value.type = TensorType(DType.FLOAT32, None)
    with pytest.raises(DataError, match="give data for it"):
        random_feed(module)
