"""Widths along the channels of a weight."""

import numpy as np
import pytest

import qir
import qir.models
from qir.backends import cost_table, load_target
from qir.backends.costs.target import Target
from qir.passes.constraints.policies import apply_policy
from qir.search import AccuracyObjective, Budget, load_network, network_problem, prepare, recipe, solve
from qir.search.problem.channels import ChannelGroups, completed


@pytest.fixture(scope="module")
def samples():
    return qir.models.fashion_mnist("calibration")


@pytest.fixture(scope="module")
def target():
    fields = load_target("npu-148").model_dump()
    changes = {"weight_widths": (2, 4, 8), "activation_widths": (4, 8), "pairs": ((8, 2), (8, 4), (8, 8), (4, 4))}
    return Target.model_validate(fields | changes)


@pytest.fixture(scope="module")
def lenet(samples, target):
    module = load_network(qir.models.path("lenet"))
    constraints = prepare(module, target, samples.images[:32])
    return module, constraints, cost_table(module, target)


def problem(lenet, **given):
    module, constraints, table = lenet
    budgets = {"average-bits": Budget(maximum=4.0), "latency": Budget.parse("0.9x")}
    rows = [[1.0 / bits for bits in constraints.options[name]] for name in constraints.decisions]
    return network_problem(module, constraints, table, budgets=budgets, sensitivity=rows, **given)


def test_groups_cover_the_channels_of_weights(lenet):
    module, constraints, _ = lenet
    groups = ChannelGroups.of(module, constraints, 3)
    assert groups.sizes["conv1.weight"] == (7, 7, 6)
    assert groups.sizes["fc2.weight"] == (4, 3, 3)
    wide = groups.policy({"conv1.weight[0]": 2, "conv1.weight[1]": 4, "conv1.weight[2]": 8, "other": 4})
    assert wide["conv1.weight"] == (2,) * 7 + (4,) * 7 + (8,) * 6
    assert wide["other"] == 4


def test_equal_groups_cost_what_the_layer_costs(lenet):
    module, constraints, _ = lenet
    whole = problem(lenet)
    groups = ChannelGroups.of(module, constraints, 3)
    parts = groups.expanded(whole)
    found = solve(whole, "milp").policy
    same = {name: found[name.split("[")[0]] for name in parts.names}
    for cost in whole.cost_names:
        assert parts.cost(cost, same) == pytest.approx(whole.cost(cost, found))
    assert not parts.violations(same)
    assert len(parts.features) == len(parts.names)


def test_mixed_groups_cost_what_the_table_says(lenet):
    module, constraints, table = lenet
    groups = ChannelGroups.of(module, constraints, 4)
    found = solve(groups.expanded(problem(lenet)), "milp")
    policy = completed(constraints, groups.policy(found.policy))
    assert any(isinstance(bits, tuple) and len(set(bits)) > 1 for bits in policy.values())
    assert table.cost([policy])[0] == pytest.approx(found.costs["latency"])
    changed = module.clone()
    apply_policy(changed, policy)
    qir.verify(changed)


def test_groups_are_measured_as_channels(lenet, samples):
    module, constraints, _ = lenet
    validation = qir.models.fashion_mnist("search-validation").take(100)
    objective = AccuracyObjective(module, constraints, calibration=samples.take(16), validation=validation)
    groups = ChannelGroups.of(module, constraints, 2)
    made = groups.expanded(problem(lenet, objective=objective))
    result = solve(made, "random", evaluations=2)
    assert result.counts["failed"] == 0
    eight = dict.fromkeys(made.names, 8)
    narrow = {name: 2 if name == "conv1.weight[1]" else 8 for name in made.names}
    alike = dict.fromkeys(constraints.decisions, 8)
    assert made.objective(eight) == objective(alike)
    network = objective.network
    made.objective(narrow)
    assert network.policy["conv1.weight"] == (8,) * 10 + (2,) * 10


def test_autoq_chooses_widths_of_channels(lenet, samples, target):
    result = recipe("autoq").run(
        lenet[0],
        target=target,
        data=samples.images[:32],
        labels=samples.labels[:32],
        budget={"average-bits": "5"},
        evaluations=4,
    )
    assert any(isinstance(bits, tuple) for bits in result.policy.values())
    bits = np.concatenate([np.atleast_1d(b) for name, b in result.policy.items() if "weight" in name])
    assert set(bits) <= {2, 4, 8}
    assert result.costs["average-bits"] <= 5
