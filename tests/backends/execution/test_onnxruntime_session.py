"""ONNX Runtime sessions."""

import numpy as np
import pytest

from qir.backends.execution.session import OrtSession
from qir.errors import DataError, QirError
from qir.graph import Graph, Node
from qir.module import Module
from qir.tensor import Tensor
from qir.types import DType, TensorType

F = DType.FLOAT32
X = np.random.default_rng(0).uniform(0, 1, (2, 3, 8, 8)).astype(np.float32)


def qdq_convolution():
    """What fuses: uint8 data, weights of 7 bits, exact on every CPU, int32 bias, a quantizer on the result."""
    graph = Graph("qdq")

    def constant(name, values, dtype):
        return graph.add_constant(name, Tensor.of(np.asarray(values, dtype)))

    def op(kind, *operands, **attributes):
        return graph.insert(Node(kind, operands, attributes=attributes)).result

    scale, zero = constant("s", 1 / 255, np.float32), constant("z", 0, np.uint8)
    weight_scale, weight_zero = constant("ws", 0.01, np.float32), constant("wz", 0, np.int8)
    codes = np.random.default_rng(1).integers(-64, 65, (4, 3, 3, 3))
    x = graph.add_input("x", TensorType(F, (2, 3, 8, 8)))
    x = op("DequantizeLinear", op("QuantizeLinear", x, scale, zero), scale, zero)
    w = op("DequantizeLinear", constant("w", codes, np.int8), weight_scale, weight_zero)
    bias_scale, bias_zero = constant("bs", 0.01 / 255, np.float32), constant("bz", 0, np.int32)
    b = op("DequantizeLinear", constant("b", [100, 0, -5, 7], np.int32), bias_scale, bias_zero)
    y, y_zero = op("Conv", x, w, b), constant("yz", 128, np.uint8)
    y_scale = constant("ys", 0.05, np.float32)
    y = op("DequantizeLinear", op("QuantizeLinear", y, y_scale, y_zero), y_scale, y_zero)
    y.type = TensorType(F, (2, 4, 6, 6))
    graph.set_outputs((y,), ("y",))
    return Module(graph, opsets={"": 21})


def test_integer_kernels_are_seen():
    session = OrtSession(qdq_convolution())
    assert session.integer_nodes() == ("QLinearConv",)
    assert (session.input_names, session.output_names) == (("x",), ("y",))


@pytest.mark.parametrize("settings", [{"optimization": "disable"}, {"disable_qdq_fusion": True}])
def test_without_fusion_there_are_none_and_the_result_is_the_same(settings):
    session = OrtSession(qdq_convolution(), **settings)
    assert session.integer_nodes() == ()
    difference = session.run({"x": X})["y"] - OrtSession(qdq_convolution()).run({"x": X})["y"]
    assert np.abs(difference).max() <= 0.05 + 1e-6, "at most one step"


def test_feeds_that_do_not_fit_are_refused():
    session = OrtSession(qdq_convolution())
    with pytest.raises(DataError, match="ONNX Runtime"):
        session.run({"x": X[:, :1]})


def test_models_that_do_not_load_are_refused(tmp_path):
    with pytest.raises(QirError, match="cannot load"):
        OrtSession(b"no model")
    with pytest.raises(QirError, match="cannot load"):
        OrtSession(tmp_path / "missing.onnx")
    with pytest.raises(QirError, match="optimization"):
        OrtSession(qdq_convolution(), optimization="most")
