"""If with a known condition, inputs that are given a value, and shapes that are fixed."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

import qir
from qir.errors import PassError
from qir.onnx_io import from_proto, to_bytes
from qir.passes import PassManager, VerifyEach, parse_pipeline

FLOAT, INT64 = TensorProto.FLOAT, TensorProto.INT64


def branch(name: str, factor: float, inner: onnx.NodeProto | None = None) -> onnx.GraphProto:
    """x * factor; both branches call their values the same."""
    nodes = [helper.make_node("Mul", ["x", "factor"], ["product"], name="multiply")]
    if inner is not None:
        nodes.append(inner)
    out = nodes[-1].output[0]
    return helper.make_graph(
        nodes,
        name,
        [],
        [helper.make_tensor_value_info(out, FLOAT, None)],
        [numpy_helper.from_array(np.float32(factor), "factor")],
    )


def model(*, sides: bool = False) -> onnx.ModelProto:
    """rate == 16000 → x * 2, with a nested If on the number of columns; else x * 3."""
    nested = helper.make_node(
        "If",
        ["one_column"],
        ["nested"],
        then_branch=helper.make_graph(
            [helper.make_node("Squeeze", ["product", "axis"], ["squeezed"])],
            "squeeze",
            [],
            [helper.make_tensor_value_info("squeezed", FLOAT, None)],
        ),
        else_branch=helper.make_graph(
            [helper.make_node("Identity", ["product"], ["kept"])],
            "keep",
            [],
            [helper.make_tensor_value_info("kept", FLOAT, None)],
        ),
    )
    nodes = [
        helper.make_node("Shape", ["x"], ["shape"]),
        helper.make_node("Gather", ["shape", "second"], ["columns"]),
        helper.make_node("Equal", ["columns", "one"], ["one_column"]),
        helper.make_node("Equal", ["rate", "wanted"], ["fast"]),
        helper.make_node(
            "If", ["fast"], ["y"], then_branch=branch("fast", 2.0, nested), else_branch=branch("slow", 3.0), name="rate"
        ),
    ]
    constants = {
        "second": np.asarray(1, np.int64),
        "one": np.asarray(1, np.int64),
        "wanted": np.asarray(16000, np.int64),
        "axis": np.asarray([1], np.int64),
    }
    outputs = [helper.make_tensor_value_info("y", FLOAT, None)]
    if sides:
        nodes.append(
            helper.make_node("If", ["one_column"], ["z"], then_branch=branch("a", 4.0), else_branch=branch("b", 5.0))
        )
        outputs.append(helper.make_tensor_value_info("z", FLOAT, None))
    graph = helper.make_graph(
        nodes,
        "g",
        [
            helper.make_tensor_value_info("x", FLOAT, ["rows", "columns"]),
            helper.make_tensor_value_info("rate", INT64, []),
        ],
        outputs,
        [numpy_helper.from_array(array, name) for name, array in constants.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def transformed(pipeline: str, *, sides: bool = False) -> qir.Module:
    module = from_proto(model(sides=sides))
    PassManager(parse_pipeline(pipeline), [VerifyEach()]).run(module)
    return module


def run(model_bytes: bytes, **feeds: np.ndarray) -> list[np.ndarray]:
    session = onnxruntime.InferenceSession(model_bytes, providers=["CPUExecutionProvider"])
    return session.run(None, feeds)


@pytest.mark.named_nodes("equal")
@pytest.mark.parametrize("rate", [16000, 8000])
@pytest.mark.parametrize("columns", [1, 3])
def test_the_branch_that_is_taken_takes_the_place_of_the_if(rate: int, columns: int) -> None:
    module = transformed(
        f"freeze-inputs{{values=[rate:{rate}],shapes=[x:2x{columns}]}},infer-types,fold-constants,inline-branches"
    )
    assert not any(node.op == "If" for node in module.graph.walk())
    assert [value.name for value in module.graph.inputs] == ["x"]
    x = np.random.default_rng(0).normal(size=(2, columns)).astype(np.float32)
    expected = run(model().SerializeToString(), x=x, rate=np.asarray(rate))[0]
    np.testing.assert_array_equal(run(to_bytes(module), x=x)[0], expected)


@pytest.mark.named_nodes("equal")
def test_an_if_whose_condition_is_open_stays_and_names_stay_apart() -> None:
    module = transformed("freeze-inputs{values=[rate:16000]},fold-constants,inline-branches", sides=True)
    assert sum(node.op == "If" for node in module.graph.walk()) == 2
    names = [value.name for node in module.graph.walk() for value in node.results]
    x = np.ones((2, 3), np.float32)
    found = run(to_bytes(module), x=x)
    np.testing.assert_array_equal(found[0], 2 * x)
    np.testing.assert_array_equal(found[1], 5 * x)
    assert len(names) >= 4


def test_a_branch_that_never_runs_may_not_fit_the_shapes() -> None:
    module = transformed("freeze-inputs{shapes=[x:2x3]},infer-types")
    qir.verify(module)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("values=[nowhere:1]", "inputs are x, rate"),
        ("values=[rate:fast]", "not a number"),
        ("values=[x:1]", "fix its shape first"),
        ("shapes=[x:2x3x4]", "does not fit"),
        ("shapes=[x:2xn]", "not a shape"),
    ],
)
def test_what_cannot_be_frozen_is_named(options: str, message: str) -> None:
    with pytest.raises(PassError, match=message):
        transformed(f"freeze-inputs{{{options}}}")
