"""Model-local functions are replaced by their bodies, so that every executor and pass sees plain operators."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

import qir
from qir.backends.torch.module import TorchModule
from qir.onnx_io import from_proto, to_bytes
from qir.passes import PassManager, VerifyEach, parse_pipeline, run_passes
from qir.passes.simplify.canonicalize import SIMPLIFY

FLOAT = TensorProto.FLOAT
OPSETS = [helper.make_opsetid("", 18), helper.make_opsetid("own", 1)]


def layer() -> onnx.FunctionProto:
    """LeakyRelu(x @ w [+ b]) with the slope as a parameter, 0.01 unless given."""
    slope = helper.make_node("LeakyRelu", ["made"], ["y"], name="activation")
    slope.attribute.add(name="alpha", type=onnx.AttributeProto.FLOAT, ref_attr_name="slope")
    shifted = helper.make_node("Gemm", ["x", "w", "b"], ["made"], name="product")
    return helper.make_function(
        "own", "Layer", ["x", "w", "b"], ["y"], [shifted, slope], OPSETS[:1],
        attribute_protos=[helper.make_attribute("slope", 0.01)],
    )  # fmt: skip


def block() -> onnx.FunctionProto:
    """A function that calls another one and gives back its own input too."""
    call = helper.make_node("Layer", ["x", "w"], ["made"], domain="own", name="inner", slope=0.5)
    kept = helper.make_node("Identity", ["x"], ["same"])
    return helper.make_function("own", "Block", ["x", "w"], ["made", "same"], [call, kept], OPSETS)


def model() -> onnx.ModelProto:
    """Two calls of the layer and one of the block."""
    rng = np.random.default_rng(0)
    constants = {"w1": rng.normal(size=(4, 5)), "b1": rng.normal(size=5), "w2": rng.normal(size=(5, 5))}
    nodes = [
        helper.make_node("Layer", ["x", "w1", "b1"], ["made"], domain="own", name="first", slope=0.2),
        helper.make_node("Block", ["made", "w2"], ["y", "before"], domain="own", name="second"),
        helper.make_node("Layer", ["y", "w2"], ["z"], domain="own", name="third"),
    ]
    outputs = [helper.make_tensor_value_info(name, FLOAT, ["n", 5]) for name in ("z", "before")]
    graph = helper.make_graph(
        nodes,
        "calls",
        [helper.make_tensor_value_info("x", FLOAT, ["n", 4])],
        outputs,
        [numpy_helper.from_array(array.astype(np.float32), name) for name, array in constants.items()],
    )
    return helper.make_model(graph, opset_imports=OPSETS, functions=[layer(), block()], ir_version=10)


def run(data: bytes, x: np.ndarray) -> list[np.ndarray]:
    return onnxruntime.InferenceSession(data, providers=["CPUExecutionProvider"]).run(None, {"x": x})


@pytest.mark.named_nodes
def test_calls_become_the_functions_nodes_and_compute_the_same():
    made = model()
    module = from_proto(made)
    assert PassManager(parse_pipeline("inline-functions"), [VerifyEach()]).run(module)
    assert [node.op for node in module.graph] == [
        "Gemm",
        "LeakyRelu",
        "Gemm",
        "LeakyRelu",
        "Identity",
        "Gemm",
        "LeakyRelu",
    ]
    assert not module.functions
    names = [node.name for node in module.graph if node.name]
    assert len(set(names)) == len(names)
    x = np.random.default_rng(1).normal(size=(3, 4)).astype(np.float32)
    wanted = run(made.SerializeToString(), x)
    for found, value in zip(run(to_bytes(module), x), wanted, strict=True):
        np.testing.assert_array_equal(found, value)
    for found, value in zip(TorchModule(module)(torch.from_numpy(x)), wanted, strict=True):
        np.testing.assert_allclose(found.numpy(), value, atol=1e-6)


def test_quantizers_stand_in_front_of_layers_inside_functions():
    module = from_proto(model())
    images = np.random.default_rng(1).normal(size=(16, 4)).astype(np.float32)
    run_passes(module, f"{SIMPLIFY},insert-fake-quant,calibrate", data=images)
    assert {node.operands[0].constant is not None for node in module.graph.fake_quants()} == {True, False}
    assert sum(node.operands[0].constant is not None for node in module.graph.fake_quants()) >= 2


def test_a_function_of_another_operator_set_stays():
    made = model()
    made.functions[0].opset_import[0].version = 17
    module = from_proto(made)
    assert PassManager(parse_pipeline("inline-functions")).run(module)
    assert {node.op for node in module.graph} == {"Layer", "Identity"}
    assert [key[1] for key in module.functions] == ["Layer"]


def test_functions_that_call_themselves_are_refused_when_a_file_is_read():
    made = model()
    made.functions[0].node[0].CopyFrom(helper.make_node("Block", ["x", "w"], ["made"], domain="own"))
    made.functions[0].opset_import.append(OPSETS[1])
    with pytest.raises(qir.QirError, match="calls itself"):
        from_proto(made)


def test_functions_that_would_end_onnx_inference_are_read():
    made = model()
    made.functions[0].node[0].CopyFrom(helper.make_node("Conv", ["x", "w", "b"], ["made"], group=0))
    assert len(from_proto(made).functions) == 2
