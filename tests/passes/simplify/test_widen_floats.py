"""Networks in half and double precision become float32 inside and keep their interface."""

from __future__ import annotations

import numpy as np
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

import qir
import qir.models
from qir.errors import QirError
from qir.onnx_io import from_proto, to_bytes
from qir.passes import PassContext, PassManager, VerifyEach, export, parse_pipeline, run_passes
from qir.types import DType

ELEMENTS = {"float16": TensorProto.FLOAT16, "float64": TensorProto.DOUBLE}


def network(dtype: str) -> qir.Module:
    """Gemm, a branch, a Cast to the type, and an output that is an input."""
    element, generator = ELEMENTS[dtype], np.random.default_rng(0)

    def branch(name: str, number: float):
        return helper.make_graph(
            [helper.make_node("Mul", ["c", f"{name}.k"], [name])],
            name,
            [],
            [helper.make_tensor_value_info(name, element, None)],
            [numpy_helper.from_array(np.asarray(number, dtype), f"{name}.k")],
        )

    nodes = [
        helper.make_node("Gemm", ["x", "w", "b"], ["p"], name="gemm"),
        helper.make_node("Relu", ["p"], ["r"], name="relu"),
        helper.make_node("Cast", ["r"], ["c"], name="cast", to=element),
        helper.make_node("If", ["flag"], ["i"], then_branch=branch("t", 2.0), else_branch=branch("e", 3.0)),
        helper.make_node("MatMul", ["i", "v"], ["y"], name="matmul"),
    ]
    constants = {
        "w": generator.normal(size=(4, 6)).astype(dtype),
        "b": generator.normal(size=6).astype(dtype),
        "v": generator.normal(size=(6, 3)).astype(dtype),
    }
    graph = helper.make_graph(
        nodes,
        "g",
        [
            helper.make_tensor_value_info("x", element, ["n", 4]),
            helper.make_tensor_value_info("flag", TensorProto.BOOL, []),
        ],
        [helper.make_tensor_value_info("y", element, ["n", 3])],
        [numpy_helper.from_array(array, name) for name, array in constants.items()],
    )
    return from_proto(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8))


def run(model: bytes, feeds: dict[str, np.ndarray]) -> np.ndarray:
    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    return session.run(
        None, {name: array for name, array in feeds.items() if name in {i.name for i in session.get_inputs()}}
    )[0]


@pytest.mark.named_nodes("equal")
@pytest.mark.parametrize("dtype", ELEMENTS)
@pytest.mark.parametrize("flag", [True, False])
def test_the_network_computes_the_same_with_its_own_inputs_and_outputs(dtype: str, flag: bool) -> None:
    module = network(dtype)
    feeds = {"x": np.random.default_rng(1).normal(size=(8, 4)).astype(dtype), "flag": np.asarray(flag)}
    before = run(to_bytes(module), feeds)
    PassManager(parse_pipeline("widen-floats"), [VerifyEach()]).run(module)
    assert str(module.graph.inputs[0].type.dtype.label) == dtype
    inside = {value.type.dtype for node in module.graph.walk() if node.op != "Cast" for value in node.results}
    assert inside == {DType.FLOAT32}
    after = run(to_bytes(module), feeds)
    assert after.dtype == before.dtype
    np.testing.assert_allclose(after, before, rtol=2e-2, atol=2e-2)


@pytest.mark.named_nodes("equal")
@pytest.mark.parametrize("dtype", ELEMENTS)
def test_a_widened_network_is_quantized_and_exported(dtype: str, tmp_path) -> None:
    module = network(dtype)
    x = np.random.default_rng(1).normal(size=(32, 4)).astype(dtype)
    steps = (
        "freeze-inputs{values=[flag:1]},widen-floats,fold-constants,inline-branches,canonicalize,"
        "insert-fake-quant{weight_widths=8,activation_widths=8},calibrate"
    )
    before = run(to_bytes(module), {"x": x, "flag": np.asarray(True)})
    PassManager(parse_pipeline(steps), [VerifyEach()]).run(module, PassContext(calibration_data=x))
    report = export(module, tmp_path / "model.onnx", data=x)
    assert report.mismatches == 0
    found = run(report.model.read_bytes(), {"x": x})
    assert found.dtype == np.dtype(dtype)
    assert np.linalg.norm(found.astype(np.float64) - before) < 0.05 * np.linalg.norm(before.astype(np.float64))


@pytest.mark.named_nodes
def test_quantizers_refuse_half_precision_and_say_what_to_do() -> None:
    with pytest.raises(QirError, match=r"Gemm 'gemm' computes in float16: .*widen-floats"):
        run_passes(network("float16"), "insert-fake-quant")


def test_a_float32_network_is_left_as_it_is() -> None:
    module = qir.load(qir.models.path("lenet"))
    version = module.version
    assert not PassManager(parse_pipeline("widen-floats")).run(module)
    assert module.version == version
