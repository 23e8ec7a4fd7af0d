"""Sparse initializers stay sparse through files, text and renaming, until their elements are replaced."""

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

import qir
from qir.errors import ParseError
from qir.onnx_io import load, to_proto
from qir.tensor import Tensor
from qir.text.printer import constants_of


@pytest.fixture
def module():
    values = helper.make_tensor("w", TensorProto.FLOAT, [3], [1.5, -2.0, 3.0])
    indices = helper.make_tensor("", TensorProto.INT64, [3], [0, 7, 39])
    sparse = helper.make_sparse_tensor(values, indices, [10, 4])
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["y"])],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [2, 10])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [2, 4])],
        sparse_initializer=[sparse],
    )
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    return load(proto.SerializeToString())


def dense():
    expected = np.zeros(40, np.float32)
    expected[[0, 7, 39]] = [1.5, -2.0, 3.0]
    return expected.reshape(10, 4)


@pytest.mark.parametrize("constants", ["inline", "hash"])
def test_text_keeps_them_sparse(module, constants) -> None:
    text = qir.print_module(module, constants)
    again = qir.parse(text, constants_of(module) if constants == "hash" else None)
    assert qir.print_module(again, constants) == text
    assert np.array_equal(again.graph.constants[0].constant.numpy(), dense())
    assert to_proto(again) == to_proto(module)
    assert len(to_proto(again).graph.sparse_initializer) == 1


def test_renaming_keeps_them_sparse(module) -> None:
    module.graph.constants[0].name = "weight"
    proto = to_proto(module)
    assert [entry.values.name for entry in proto.graph.sparse_initializer] == ["weight"]
    assert not proto.graph.initializer
    onnx.checker.check_model(proto)


def test_a_new_constant_is_dense(module) -> None:
    module.graph.constants[0].constant = Tensor.of(dense() * 2)
    proto = to_proto(module)
    assert not proto.graph.sparse_initializer
    assert len(proto.graph.initializer) == 1


@pytest.mark.parametrize(
    ("old", "new"),
    [("dense<tensor<[10,4]", "dense<tensor<[4,10]"), ('sparse x"', 'sparse x"ff')],
    ids=["shape", "bytes"],
)
def test_damaged_text_is_refused(module, old, new) -> None:
    with pytest.raises(ParseError, match="sparse"):
        qir.parse(qir.print_module(module).replace(old, new, 1))
