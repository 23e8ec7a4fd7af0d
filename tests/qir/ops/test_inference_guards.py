"""Nodes that would end the process inside ONNX's type inference are refused with an error."""

from __future__ import annotations

import numpy as np
import pytest

from qir.errors import QirError
from qir.graph import Graph, Node
from qir.ops import op_of
from qir.ops.inference import infer
from qir.tensor import Tensor
from qir.types import DType, TensorType

DATA, WEIGHT, SCALAR = (1, 4, 8, 8), (4, 4, 3, 3), ()


def node(op: str, *operands: tuple[int, ...] | np.ndarray, **attributes: object) -> Node:
    graph = Graph("damaged")
    values = tuple(
        graph.add_constant(f"c{i}", Tensor.of(operand))
        if isinstance(operand, np.ndarray)
        else graph.add_input(f"x{i}", TensorType(DType.FLOAT32, operand))
        for i, operand in enumerate(operands)
    )
    return graph.insert(Node(op, values, ("y",), name="damaged", attributes=attributes))


@pytest.mark.parametrize(
    ("damaged", "named"),
    [
        (node("Conv", DATA, WEIGHT, strides=[0, 0]), "'strides' holds 0"),
        (node("MaxPool", DATA, kernel_shape=[2, 2], strides=[0, 1]), "'strides' holds 0"),
        (node("DepthToSpace", DATA, blocksize=2**62), "'blocksize'"),
        (node("Split", DATA, num_outputs=2**31), "'num_outputs'"),
        (node("ConvTranspose", DATA, SCALAR), "4 and 0 dimensions"),
        (node("SplitToSequence", DATA, np.array(0)), "operand 1 is 0"),
        (node("OneHot", DATA, np.zeros(0, np.int64), (2,)), "operand 1 is []"),
    ],
)
def test_what_crashes_the_inference_is_refused_by_name(damaged: Node, named: str) -> None:
    with pytest.raises(QirError, match="expected") as caught:
        infer(damaged, {"": 21})
    assert named in str(caught.value)
    assert damaged.op in str(caught.value)


def test_a_stride_of_zero_has_no_layer_shape() -> None:
    damaged = node("Conv", DATA, WEIGHT, strides=[0, 0])
    damaged.result.type = TensorType(DType.FLOAT32, DATA)
    with pytest.raises(QirError, match="verify"):
        op_of(damaged).layer_shape(damaged)
