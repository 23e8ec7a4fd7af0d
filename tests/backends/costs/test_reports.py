"""Reports against values computed by hand: transfer of policies, explanations, ratios, memory and paths of branches."""

import numpy as np
import pytest

from qir.backends import cost_table
from qir.backends.costs.layers.cost import Cost
from qir.backends.costs.tables.reports import (
    critical_path,
    explain_costs,
    model_bytes,
    peak_memory,
    ratios,
    transfer_matrix,
)
from qir.backends.costs.tables.rows import CostRow, HeldWeight, NetworkFacts
from qir.backends.costs.tables.table import CostTable
from qir.errors import TargetError
from qir.graph import Graph, Node
from qir.module import Module
from qir.ops import infer_graph
from qir.tensor import Tensor
from qir.types import DType, TensorType


def layer(name, cells, activation_widths, weight_widths):
    """A layer whose cycles are given by [activation widths][weight widths]; None = illegal."""

    def cost(cycles, a, w):
        return None if cycles is None else Cost(cycles, cycles, bit_operations=1000.0 * a * w, bound_by=f"{a}/{w}")

    costs = tuple(
        tuple(cost(cycles, a, w) for cycles, w in zip(line, weight_widths, strict=True))
        for line, a in zip(cells, activation_widths, strict=True)
    )
    return CostRow(name, "Conv", name, f"{name}.in", f"{name}.weight", activation_widths, weight_widths, costs)


def network(cells, target="x"):
    widths = {"a.in": (4, 8), "a.weight": (4, 8)}
    weights = (HeldWeight(800, "a.weight", 10), HeldWeight(10, None, 0))
    facts = NetworkFacts(weights=weights)
    return CostTable([layer("a", cells, (4, 8), (4, 8))], widths, target, facts)


def test_policies_transfer_as_computed_by_hand():
    tables = {"first": network([[1, 2], [3, 4]]), "second": network([[10, None], [20, 5]])}
    policies = {"first": {"a.in": 4, "a.weight": 8}, "second": {"a.in": 8, "a.weight": 8}}
    assert transfer_matrix(tables, policies).tolist() == [[2, np.inf], [4, 5]]
    operations = transfer_matrix(tables, policies, "bit_operations")
    assert operations.tolist() == [[32000, np.inf], [64000, 64000]]


def test_widths_that_a_target_does_not_have_are_illegal_there():
    tables = {"first": network([[1, 2], [3, 4]])}
    assert transfer_matrix(tables, {"p": {"a.in": 2, "a.weight": 8}}).tolist() == [[np.inf]]


def test_ratios_follow_the_papers():
    table = network([[1, 2], [3, 4]])
    found = ratios(table, {"a.in": 8, "a.weight": 4})
    assert found["haq_latency"] == 3 / 4
    assert found["haq_weights"] == 32 / 4
    assert found["hawq_size"] == (810 * 4) / ((800 * 4 + 10 * 32 + 10 * 32) / 8)
    assert found["hawq_bops"] == 32 * 32 / (8 * 4)
    assert model_bytes(table, [{"a.in": 8, "a.weight": 4}]).tolist() == [480]


def test_explanation_names_bounds_and_the_width_where_fewer_bits_stop_helping():
    found = explain_costs(network([[7, 9], [7, 12]]), "a")
    assert found.cycles == {(4, 4): 7, (4, 8): 9, (8, 4): 7, (8, 8): 12}
    assert found.bound_by[8, 4] == "8/4"
    assert found.stops == ("fewer than 8 activation bits change nothing at 4-bit weights: bound by 8/4",)


def test_explanation_of_a_node_without_weights():
    table = cost_table(branches(), "systolic-16x16")
    found = explain_costs(table, "add")
    assert found.cycles == {(32, 0): 3 * 64 * 32 / 64}
    assert found.bound_by == {(32, 0): "dram.activations"}
    assert found.stops == ()


def branches():
    """x → left (1x1) and x → right (3x3), their sum: 4 channels of 4x4 pixels."""
    graph = Graph("branches")
    value = graph.add_input("x", TensorType(DType.FLOAT32, (1, 2, 4, 4)))
    results = []
    for name, size in (("left", 1), ("right", 3)):
        weight = graph.add_constant(f"{name}.w", Tensor.of(np.zeros((4, 2, size, size), np.float32)))
        pads = (size // 2,) * 4
        node = Node("Conv", (value, weight), (f"{name}.y",), name=name, attributes={"pads": pads})
        results.append(graph.insert(node).result)
    total = graph.insert(Node("Add", tuple(results), ("sum",), name="add"))
    graph.set_outputs([total.result])
    module = Module(graph, opsets={"": 21})
    infer_graph(module)
    return module


def test_peak_memory_of_branches_is_their_largest_cut():
    """While `add` runs, both branches and the sum live as float32; `x` ended with `right`."""
    table = cost_table(branches(), "bismo-16x16x256")
    assert peak_memory(table, [table.uniform(8, 8), table.uniform(2, 2)]).tolist() == [3 * 64 * 4, 3 * 64 * 4]
    tensors = {(tensor.elements, tensor.first, tensor.last) for tensor in table.facts.tensors}
    assert tensors == {(32, 0, 1), (64, 0, 2), (64, 1, 2), (64, 2, 3)}


def test_critical_path_of_branches_takes_the_longer_one():
    table = cost_table(branches(), "systolic-16x16")
    policy = table.uniform(8, 8)
    cycles = {row.node: row.cycles for row in table.rows(policy)}
    assert cycles["left"] < cycles["right"]
    found = critical_path(table, policy)
    assert found.nodes == ("right", "add")
    assert found.cycles == cycles["right"] + cycles["add"]


@pytest.mark.parametrize(
    ("codes", "message"),
    [
        (np.zeros((3, 1), np.int8), r"expected integers \[policies, 2\]"),
        (np.zeros((3, 2)), "expected integers"),
        (np.array([[0, 2]], np.int8), "'a.weight' is outside 0 to 1"),
        (np.array([[-1, 0]], np.int8), "'a.in' is outside 0 to 1"),
    ],
)
def test_codes_outside_the_table_are_refused(codes, message):
    with pytest.raises(TargetError, match=message):
        network([[1, 2], [3, 4]]).cost(codes)
