"""The op registry against ONNX's schemas, and its facts."""

import numpy as np
import pytest

from qir.graph import Graph, Node, Value
from qir.ops import OpDef, entries, lookup, op_of, register
from qir.tensor import Tensor
from qir.types import DType, TensorType

F = DType.FLOAT32


def value(name, *shape):
    return Value(name, TensorType(F, shape))


def test_every_entry_of_onnx_has_a_schema():
    for domain, name, since in entries():
        if domain == "":
            node = Node(name, ())
            found = lookup(node, {"": 9 if name == "Upsample" else 23})
            assert found.schema is not None, name
            assert found.since_version >= since


def test_versions_follow_the_imported_operator_set():
    node = Node("Clip", ())
    assert [lookup(node, {"": v}).since_version for v in (6, 11, 12, 21)] == [6, 11, 12, 13]
    assert "min" in lookup(node, {"": 6}).schema.attributes
    assert lookup(node, {"": 13}).schema.max_input == 3


def test_the_two_names_of_onnx_domain_are_one():
    assert op_of(Node("Conv", (), domain="ai.onnx")) is op_of(Node("Conv", ()))
    assert lookup(Node("Conv", (), domain="ai.onnx"), {"ai.onnx": 11}).since_version == 11


def test_unknown_ops_are_never_quantized_and_cost_is_unknown():
    node = Node("Mystery", (value("x", 2),), domain="custom")
    entry = op_of(node)
    assert not entry.is_known
    assert entry.quantizable(node) is None
    assert entry.grid_operand(node) is None
    assert entry.macs(node) is None
    assert lookup(node, {"": 21}).schema is None


def test_ops_of_other_domains_can_be_registered():
    register(OpDef("Doubled", "test.registered", is_elementwise=True))
    assert op_of(Node("Doubled", (), domain="test.registered")).is_elementwise


@pytest.mark.parametrize(
    ("op", "operands", "attributes", "axis"),
    [
        ("Conv", [(1, 3, 8, 8), (4, 3, 3, 3)], {}, 0),
        ("ConvTranspose", [(1, 3, 8, 8), (3, 4, 3, 3)], {}, 1),
        ("ConvTranspose", [(1, 4, 8, 8), (4, 2, 3, 3)], {"group": 2}, None),
        ("Gemm", [(2, 3), (3, 4)], {}, 1),
        ("Gemm", [(2, 3), (4, 3)], {"transB": 1}, 0),
        ("MatMul", [(2, 3), (3, 4)], {}, 1),
        ("MatMul", [(5, 2, 3), (5, 3, 4)], {}, 2),
    ],
)
def test_channel_axis_of_the_weight(op, operands, attributes, axis):
    node = Node(op, [value(f"v{i}", *shape) for i, shape in enumerate(operands)], attributes=attributes)
    assert op_of(node).quantizable(node).weight_axis == axis


@pytest.mark.parametrize(
    ("op", "operands", "attributes", "macs"),
    [
        ("Conv", [(2, 3, 8, 8), (4, 3, 3, 3)], {}, 2 * 4 * 36 * 27),
        ("Conv", [(2, 3, 8, 8), (4, 3, 3, 3)], {"pads": (1, 1, 1, 1), "strides": (2, 2)}, 2 * 4 * 16 * 27),
        ("Conv", [(1, 6, 8, 8), (6, 1, 3, 3)], {"group": 6, "auto_pad": "SAME_UPPER"}, 6 * 64 * 9),
        ("Conv", [(1, 2, 9), (4, 2, 3)], {"dilations": (2,)}, 4 * 5 * 6),
        ("ConvTranspose", [(1, 3, 5, 5), (3, 4, 2, 2)], {"strides": (2, 2)}, 25 * 3 * 4 * 4),
        ("Gemm", [(5, 7), (4, 7)], {"transB": 1}, 5 * 7 * 4),
        ("MatMul", [(3, 2, 5, 7), (2, 7, 4)], {}, 6 * 5 * 7 * 4),
        ("MatMul", [(3, 5, 7), (7, 4)], {}, 3 * 5 * 7 * 4),
        ("LSTM", [(10, 2, 4), (2, 12, 4), (2, 12, 3)], {}, 2 * 20 * 12 * 7),
        ("Relu", [(5, 7)], {}, 0),
        ("Conv", [(2, 3, "h", 8), (4, 3, 3, 3)], {}, None),
    ],
)
def test_multiply_accumulates(op, operands, attributes, macs):
    node = Node(op, [value(f"v{i}", *shape) for i, shape in enumerate(operands)], attributes=attributes)
    assert op_of(node).macs(node) == macs


def test_an_unknown_batch_is_taken_as_told():
    node = Node("Conv", (value("x", "N", 3, 8, 8), value("w", 4, 3, 3, 3)))
    assert op_of(node).macs(node) is None
    shape = op_of(node).layer_shape(node, batch=1)
    assert (shape.in_channels, shape.out_channels, shape.batch, shape.output_spatial) == (3, 4, 1, (6, 6))
    assert op_of(node).macs(node, batch=2) == 2 * shape.macs


def test_transposed_convolution_output_size():
    node = Node(
        "ConvTranspose",
        (value("x", 1, 3, 5, 4), value("w", 3, 4, 3, 3)),
        attributes={"strides": (2, 2), "pads": (1, 1, 1, 1), "output_padding": (1, 1)},
    )
    assert op_of(node).layer_shape(node).output_spatial == (10, 8)


def test_activations_fuse_and_joins_do_not():
    graph = Graph()
    x = graph.add_input("x")
    relu = graph.insert(Node("Relu", (x,)))
    add = graph.insert(Node("Add", (relu.result, graph.add_constant("c", Tensor.of(np.float32(1))))))
    assert op_of(relu).fuses_into_producer(relu)
    assert not op_of(add).fuses_into_producer(add)
    assert op_of(add).is_join
