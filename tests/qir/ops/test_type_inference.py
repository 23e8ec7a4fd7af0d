"""Type inference and the flow of grids."""

import time

import numpy as np
import pytest

from qir.errors import QirError
from qir.fake_quant import FakeQuant, make_fake_quant
from qir.granularity import granularity_of
from qir.graph import Graph, Node
from qir.module import Function, Module
from qir.ops import infer, infer_graph
from qir.tensor import Tensor
from qir.types import DType, TensorType, UnknownType

F = DType.FLOAT32


def graph_with(*shape, name="x"):
    graph = Graph()
    return graph, graph.add_input(name, TensorType(F, shape))


def quantized(graph, value, low=-1.0, high=1.0, bits=4, signed=True, axis=None, channels=1, calibrated=True):
    node = make_fake_quant(
        value, name=f"q{len(graph)}", bits=bits, widths=(bits,), signed=signed, granularity=granularity_of(axis)
    )
    graph.insert(node)
    if calibrated:
        FakeQuant(node).calibration = np.tile(np.asarray([[[low, high]]], np.float32), (1, channels, 1))
    return node.result


def result_of(graph, op, *operands, **attributes):
    node = graph.insert(Node(op, operands, attributes=attributes))
    (node.result.type,) = infer(node, {"": 21})
    return node.result


def test_convolution_keeps_symbolic_batch():
    graph, x = graph_with("N", 3, 8, 8)
    w = graph.add_constant("w", Tensor.of(np.zeros((4, 3, 3, 3), np.float32)))
    assert result_of(graph, "Conv", x, w).type == TensorType(F, ("N", 4, 6, 6))


def test_small_constants_reach_the_schema():
    graph, x = graph_with(2, 3, 4)
    shape = graph.add_constant("shape", Tensor.of(np.asarray([0, -1], np.int64)))
    assert result_of(graph, "Reshape", x, shape).type.shape == (2, 12)


def test_integers_computed_from_known_dimensions_count_as_constants():
    graph, x = graph_with("N", 3, 4, 5)
    one, axes, minus = (
        graph.add_constant(n, Tensor.of(np.asarray(v, np.int64)))
        for n, v in (("one", 1), ("axes", [0]), ("minus", [-1]))
    )
    channels = result_of(graph, "Gather", result_of(graph, "Shape", x, start=0, end=2), one)
    assert (
        result_of(
            graph,
            "Reshape",
            x,
            result_of(graph, "Concat", minus, result_of(graph, "Unsqueeze", channels, axes), axis=0),
        ).type.shape
        is not None
    )
    known = result_of(graph, "Shape", x, start=1)
    three = result_of(graph, "Gather", known, graph.add_constant("zero", Tensor.of(np.asarray(0, np.int64))))
    target = result_of(graph, "Concat", minus, result_of(graph, "Unsqueeze", three, axes), axis=0)
    assert result_of(graph, "Reshape", x, target).type.shape[1] == 3


def test_integers_of_constant_nodes_count_as_constants():
    graph, x = graph_with(2, 8)
    one, two, three = (result_of(graph, "Constant", value_ints=(number,)) for number in (1, 2, 3))
    end = result_of(graph, "Mul", two, three)
    assert result_of(graph, "Slice", x, one, end, result_of(graph, "Constant", value_ints=(-1,))).type.shape == (2, 5)


def test_sizes_that_are_computed_still_tell_the_number_of_dimensions():
    graph, x = graph_with("N", 3, 4, 5)
    sizes = graph.add_input("sizes", TensorType(DType.INT64, (2,)))
    assert result_of(graph, "Reshape", x, sizes).type == TensorType(F, (None, None))


def test_impossible_operands_are_refused_with_the_node():
    graph, x = graph_with(2, 3)
    node = graph.insert(Node("MatMul", (x, graph.add_input("y", TensorType(F, (4, 5))))))
    with pytest.raises(QirError, match="MatMul"):
        infer(node, {"": 21})


def test_unknown_ops_have_unknown_types():
    graph, x = graph_with(2)
    node = graph.insert(Node("Mystery", (x,), domain="custom"))
    assert infer(node, {"": 21, "custom": 1}) == (UnknownType(),)


def test_functions_are_inferred_through_their_body():
    graph, x = graph_with(2, 3)
    module = Module(graph)
    body = Graph()
    inner = body.insert(Node("Transpose", (body.add_input("a"),)))
    body.set_outputs((inner.result,))
    module.add_function(Function("local", "Turn", body))
    node = graph.insert(Node("Turn", (x,), domain="local"))
    assert infer(node, module)[0].shape == (3, 2)


def branch(shape):
    graph = Graph()
    graph.set_outputs((graph.add_constant("c", Tensor.of(np.zeros(shape, np.float32))),))
    return graph


def test_if_has_what_both_branches_share():
    graph = Graph()
    condition = graph.add_input("c", TensorType(DType.BOOL, ()))
    node = graph.insert(
        Node("If", (condition,), attributes={"then_branch": branch((2, 3)), "else_branch": branch((2, 4))})
    )
    assert infer(node, {"": 21}) == (TensorType(F, (2, None)),)


@pytest.mark.parametrize("op", ["Reshape", "Transpose", "Flatten", "Squeeze", "Unsqueeze", "Identity", "MaxPool"])
def test_movement_keeps_the_grid(op):
    graph, x = graph_with(1, 2, 4, 4)
    q = quantized(graph, x)
    extra = {"Reshape": [1, 32], "Squeeze": [0], "Unsqueeze": [0]}.get(op)
    operands = (q,) if extra is None else (q, graph.add_constant("s", Tensor.of(np.asarray(extra, np.int64))))
    attributes = {"kernel_shape": (2, 2)} if op == "MaxPool" else {}
    assert result_of(graph, op, *operands, **attributes).type.quant == q.type.quant


@pytest.mark.parametrize(("op", "count"), [("Add", 2), ("Sigmoid", 1), ("GlobalAveragePool", 1)])
def test_arithmetic_leaves_the_grid(op, count):
    graph, x = graph_with(1, 2, 4, 4)
    q = quantized(graph, x)
    assert result_of(graph, op, *[q] * count).type.element is F


def test_relu_keeps_a_grid_that_holds_zero():
    graph, x = graph_with(4)
    assert result_of(graph, "Relu", quantized(graph, x)).type.quant is not None
    assert result_of(graph, "Relu", quantized(graph, x, bits=1)).type.quant is None


def test_clip_keeps_the_grid_only_when_its_bounds_lie_on_it():
    graph, x = graph_with(4)
    q = quantized(graph, x, low=-7.0, high=7.0)
    for bounds, kept in (((-3.0, 3.0), True), ((-3.5, 3.0), False), ((-100.0, 100.0), True)):
        low, high = (graph.add_constant("b", Tensor.of(np.float32(b))) for b in bounds)
        assert (result_of(graph, "Clip", q, low, high).type.quant is not None) == kept


def test_pad_keeps_the_grid_only_when_its_value_lies_on_it():
    graph, x = graph_with(4)
    q = quantized(graph, x, low=-7.0, high=7.0)
    pads = graph.add_constant("pads", Tensor.of(np.asarray([1, 1], np.int64)))
    for number, kept in ((0.0, True), (2.0, True), (2.5, False)):
        value = graph.add_constant("value", Tensor.of(np.float32(number)))
        assert (result_of(graph, "Pad", q, pads, value).type.quant is not None) == kept


def test_concat_keeps_equal_grids_only():
    graph, x = graph_with(4)
    same, again, other = quantized(graph, x), quantized(graph, x), quantized(graph, x, high=2.0)
    assert result_of(graph, "Concat", same, again, axis=0).type.quant == same.type.quant
    assert result_of(graph, "Concat", same, other, axis=0).type.quant is None


def test_a_channel_grid_moves_with_its_axis():
    graph, x = graph_with(2, 3, 4)
    q = quantized(graph, x, axis=1, channels=3)
    assert result_of(graph, "Transpose", q, perm=(1, 2, 0)).type.quant.axis == 0
    assert result_of(graph, "Flatten", q).type.quant is None


def chain(length):
    graph, x = graph_with("N", 8)
    for _ in range(length // 2):
        x = graph.insert(Node("Relu", (x,))).result
        x = graph.insert(Node("Add", (x, x))).result
    graph.set_outputs((x,))
    return Module(graph)


def test_only_changed_nodes_are_inferred_again():
    module = chain(200)
    assert infer_graph(module) == 200
    assert infer_graph(module, changed_only=True) == 0
    node = module.graph.nodes[100]
    node.set_attribute("x", 1)
    node.set_attribute("x", None)
    assert infer_graph(module, changed_only=True) == 1


def test_ten_thousand_nodes_in_two_seconds():
    module = chain(10_000)
    start = time.process_time()
    infer_graph(module)
    assert time.process_time() - start < 2
    assert module.graph.outputs[0].type == TensorType(F, ("N", 8))


def test_known_dimensions_survive_an_inference_that_does_not_see_them():
    graph, x = graph_with(None, 8)
    module = Module(graph)
    node = graph.insert(Node("Relu", (x,)))
    node.result.type = TensorType(F, (5, 8))
    graph.set_outputs((node.result,))
    infer_graph(module)
    assert node.result.type == TensorType(F, (5, 8))
