"""Bounds that reward an agent step by step."""

import itertools

import numpy as np
import pytest

from qir.search import Budget, Decision, PairCost, Problem, QuantizationEnv, Relation
from qir.search.environment.observation import StepRewards
from qir.search.environment.potential import Potential


def small(seed, budgets=1):
    rng = np.random.default_rng(seed)
    names = ["a0", "w0", "a1", "w1"]
    sensitivity = np.sort(rng.exponential(size=(4, 3)), axis=1)[:, ::-1].tolist()
    return Problem(
        [Decision(name, (2, 4, 8)) for name in names],
        costs={"size": (rng.uniform(1, 9, (4, 1)) * [2, 4, 8]).tolist()},
        pair_costs={"latency": [PairCost("w0", "a1", rng.uniform(0, 5, (3, 3))), PairCost("a0", "w0", np.eye(3))]},
        relations=[Relation("a1", "w1", frozenset({(2, 2), (4, 4), (8, 8), (8, 4)}))],
        budgets={"size": Budget(maximum=90.0), "latency": Budget(maximum=4.0)}
        if budgets == 2
        else {"size": Budget(maximum=70.0)},
        sensitivity=sensitivity,
    )


@pytest.mark.parametrize("budgets", [1, 2])
@pytest.mark.parametrize("seed", range(4))
def test_no_completion_is_below_its_bound(seed, budgets):
    problem = small(seed, budgets)
    rows = np.array(list(itertools.product(range(3), repeat=4)))
    rows = rows[problem.feasible(rows)]
    values = problem.tables.sensitivity.total(rows)
    potential = Potential(problem.tables)
    for row in rows:
        for length in range(5):
            same = (rows[:, :length] == row[:length]).all(1)
            assert potential.least(row[:length]) <= values[same].min() * (1 + 1e-9) + 1e-12
    whole = [potential.least(row) for row in rows]
    assert whole == pytest.approx(values)


def test_bounds_of_two_budgets_are_tight_when_one_of_them_is_slack():
    costs = {"size": [[2.0, 4.0, 8.0]] * 6, "energy": [[1.0, 1.0, 1.1]] * 6}
    sensitivity = (np.random.default_rng(0).random((6, 1)) * [1.0, 0.3, 0.0]).tolist()
    names = [Decision(f"l{i}", (2, 4, 8)) for i in range(6)]
    limits = {"size": Budget(maximum=24.0), "energy": Budget(maximum=7.0)}
    alone, both = (
        Potential(Problem(names, costs=costs, budgets=chosen, sensitivity=sensitivity).tables)
        for chosen in ({"size": limits["size"]}, limits)
    )
    assert both.least(()) == pytest.approx(alone.least(()))


def test_rewards_of_an_episode_are_best_for_the_optimum():
    problem = small(1)
    rows = np.array(list(itertools.product(range(3), repeat=4)))
    rows = rows[problem.feasible(rows)]
    rewards = StepRewards(problem)
    returns = [sum(rewards.reward(tuple(row[: t + 1])) for t in range(4)) for row in rows]
    assert max(returns) <= 0
    assert int(np.argmax(returns)) == int(problem.tables.sensitivity.total(rows).argmin())


def test_features_of_neighbours_tell_earlier_from_later_decisions():
    env = QuantizationEnv(small(0), dense=True)
    table = env._features
    assert table.shape[0] == 4
    assert np.isfinite(table).all()
    assert table.min() >= 0
    assert table.max() <= 1
