"""Budgets of a network: what they count, and what relative ones are shares of."""

import numpy as np
import pytest

import qir.models
from qir.backends import cost_table, load_target
from qir.backends.costs.tables.reports import peak_memory
from qir.errors import InfeasibleError
from qir.search import Budget, load_network, network_problem, prepare, solve


@pytest.fixture(scope="module")
def lenet():
    module, target = load_network(qir.models.path("lenet")), load_target("npu-148")
    images = qir.models.fashion_mnist("calibration").images[:16]
    constraints = prepare(module, target, images, input_widths="all")
    return module, constraints, cost_table(module, target)


def problem(lenet, **budgets):
    module, constraints, table = lenet
    rng = np.random.default_rng(0)
    sensitivity = [sorted(rng.random(len(constraints.options[n])), reverse=True) for n in constraints.decisions]
    parsed = {name.replace("_", "-"): Budget.parse(limit) for name, limit in budgets.items()}
    return network_problem(module, constraints, table, budgets=parsed, sensitivity=sensitivity)


def test_average_bits_are_size_over_weights(lenet):
    made = problem(lenet, average_bits="4", size="0.1x fp32", latency="0.6x", energy="0.8x", bops="0.1x fp32")
    found = solve(made, "milp")
    assert not made.violations(found.policy)
    eight = dict.fromkeys(made.names, 8)
    assert made.cost("average-bits", eight) == pytest.approx(8)
    assert made.ratio("size", found.policy) <= 0.1
    assert made.references["fp32"]["size"] == pytest.approx(4 * made.cost("size", eight))
    assert made.references["fp32"]["bops"] == pytest.approx(16 * made.cost("bops", eight))


def test_peak_memory_is_a_budget_of_searches_that_measure(lenet):
    _, constraints, table = lenet
    made = problem(lenet, peak_memory="0.6x")
    found = solve(made, "exhaustive")
    assert not made.violations(found.policy)
    eight = constraints.complete(dict.fromkeys(made.names, 8))
    assert made.cost("peak-memory", found.policy) <= 0.6 * peak_memory(table, [eight])[0]
    assert made.references["fp32"]["peak-memory"] == pytest.approx(4 * peak_memory(table, [eight])[0])


def test_infeasible_budgets_name_the_smallest_reachable_cost(lenet):
    with pytest.raises(InfeasibleError, match=r"average-bits.*smallest"):
        solve(problem(lenet, average_bits="0.5"), "milp")


def test_features_tell_the_layer_of_each_decision():
    module, target = load_network(qir.models.path("lenet")), load_target("bitfusion-e")
    constraints = prepare(module, target, qir.models.fashion_mnist("calibration").images[:16])
    made = network_problem(
        module,
        constraints,
        cost_table(module, target),
        budgets={},
        sensitivity=[[0.0] * len(constraints.options[name]) for name in constraints.decisions],
    )
    rows = dict(zip(made.names, np.asarray(made.features), strict=True))
    weight, data = rows["fc1.weight"], rows["fc1.input"]
    np.testing.assert_array_equal(weight[:10], data[:10])
    assert (weight[11], data[11]) == (1, 0)
    tensor = next(node for node in module.graph.fake_quants() if node.name == "fc1.weight").operands[0].constant
    inputs, outputs = sorted(tensor.shape, reverse=True)
    np.testing.assert_allclose(16 * weight[1:3], np.log2([inputs, outputs]))
    assert weight[7] == pytest.approx(tensor.numpy().std() / np.abs(tensor.numpy()).max())
