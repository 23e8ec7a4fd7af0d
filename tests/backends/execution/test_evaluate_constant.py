"""Evaluation of constant nodes."""

import numpy as np
import pytest

from qir.backends.execution.evaluate import evaluate_constant, evaluate_control_flow
from qir.errors import QirError
from qir.graph import Graph, Node
from qir.tensor import Tensor


def node_of(op, count, results=1, **attributes):
    graph = Graph()
    return graph.insert(Node(op, [graph.add_input(f"v{i}") for i in range(count)], results, attributes=attributes))


def test_results_come_back_in_order():
    values = np.asarray([[3.0, 1.0, 2.0]], np.float32)
    top, index = evaluate_constant(node_of("TopK", 2, 2), [values, np.asarray([2])])
    assert top.tolist() == [[3.0, 2.0]]
    assert index.tolist() == [[0, 2]]


def test_left_out_operands_stay_left_out():
    (found,) = evaluate_constant(node_of("Clip", 3), [np.asarray([-1.0, 5.0], np.float32), None, np.float32(2)])
    assert found.tolist() == [-1.0, 2.0]


def test_element_types_without_kernel_go_to_the_reference():
    ml_dtypes = pytest.importorskip("ml_dtypes")
    ones = np.ones(2, ml_dtypes.bfloat16)
    (found,) = evaluate_constant(node_of("Add", 2), [ones, ones])
    assert found.dtype == ml_dtypes.bfloat16
    assert found.astype(np.float32).tolist() == [2, 2]


def test_impossible_operands_are_refused():
    with pytest.raises(QirError, match="Add"):
        evaluate_constant(node_of("Add", 2), [np.zeros(2, np.float32), np.zeros(3, np.float32)])


def test_a_branch_that_is_not_taken_need_not_fit_the_operands():
    """Exporters write a Squeeze for the case of one sample next to the case of many: only one of them is valid."""
    outer = Graph("outer")
    condition, data = outer.add_input("condition"), outer.add_input("data")
    many, one = Graph("many"), Graph("one")
    many.set_outputs([many.insert(Node("Neg", (data,))).result])
    axes = one.add_constant("axes", Tensor.of(np.array([0])))
    one.set_outputs([one.insert(Node("Squeeze", (data, axes))).result])
    node = outer.insert(Node("If", (condition,), attributes={"then_branch": many, "else_branch": one}))
    values = {condition: np.asarray(True), data: np.ones((2, 3), np.float32)}
    (found,) = evaluate_control_flow(node, values, opsets={"": 17})
    assert np.array_equal(found, -values[data])
