import itertools

import numpy as np
import pytest

from qir.errors import SearchError
from qir.search import Budget, Decision, PairCost, Problem, Relation, solve

WIDTHS = (2, 4, 8)
METHODS = ["random", "evolution", "nsga2", "apq", "surrogate", "rl"]


def problem(seed=0, length=6, guided=False):
    rng = np.random.default_rng(seed)
    names = [f"l{i}" for i in range(length)]
    loss = rng.exponential(size=(length, 3)).cumsum(1)[:, ::-1] / length
    position = {name: i for i, name in enumerate(names)}

    def objective(policy):
        total = sum(loss[position[n], WIDTHS.index(bits)] for n, bits in policy.items())
        return float(np.exp(-total) + 0.01 * np.sin(sum((i + 1) * b for i, b in enumerate(policy.values())) % 7))

    return Problem(
        [Decision(n, WIDTHS) for n in names],
        pair_costs={"latency": [PairCost(a, b, np.outer(WIDTHS, WIDTHS)) for a, b in itertools.pairwise(names)]},
        relations=[Relation.tie(names[0], names[2], WIDTHS)],
        budgets={"latency": Budget.parse("0.4x")},
        sensitivity=loss if guided else None,
        objective=objective,
    )


@pytest.mark.parametrize("method", METHODS)
def test_every_measured_policy_is_new_and_feasible(method):
    p = problem()
    result = solve(p, method, evaluations=40, seed=1)
    policies = [e.policy for e in result.evaluations]
    assert len(policies) == len(set(policies)) == 40
    assert not any(p.violations(policy) for policy in policies)
    assert result.value == max(e.value for e in result.evaluations)


@pytest.mark.parametrize("method", METHODS)
def test_same_seed_same_run(method):
    p = problem(length=4)
    first, second = (solve(p, method, evaluations=12, seed=5) for _ in range(2))
    assert [e.policy for e in first.evaluations] == [e.policy for e in second.evaluations]


@pytest.mark.parametrize("method", ["evolution", "surrogate", "nsga2"])
def test_a_used_up_space_ends_the_run(method):
    p = problem(length=3)
    every = solve(p, "exhaustive")
    result = solve(p, method, evaluations=500)
    assert len(result.evaluations) <= len(every.evaluations)
    assert result.value == every.value


@pytest.mark.parametrize("method", ["evolution", "surrogate"])
def test_searches_beat_random_on_a_space_too_large_to_enumerate(method):
    gains = []
    for seed in range(3):
        p = problem(seed, length=20)
        gains.append(
            solve(p, method, evaluations=60, seed=seed).value - solve(p, "random", evaluations=60, seed=seed).value
        )
    assert np.mean(gains) > 0


@pytest.mark.parametrize("method", METHODS)
def test_failures_do_not_end_a_run(method):
    p = problem(length=4)
    base = p.objective

    def objective(policy):
        return float("nan") if policy["l1"] == 2 else base(policy)

    p = Problem(p.decisions, pair_costs=p.pair_costs, relations=p.relations, objective=objective)
    result = solve(p, method, evaluations=20)
    assert result.counts["failed"] > 0
    assert result.policy["l1"] != 2


def test_a_sensitivity_guides_the_surrogate():
    p = problem(length=12, guided=True)
    assert solve(p, "surrogate", evaluations=15).value >= solve(p, "random", evaluations=15).value


@pytest.mark.parametrize("method", ["evolution", "nsga2", "surrogate", "rl"])
def test_searches_ask_for_a_number_of_evaluations(method):
    with pytest.raises(SearchError, match="evaluations"):
        solve(problem(), method)
