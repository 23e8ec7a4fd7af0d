import itertools
import math
import time

import numpy as np
import pytest

from qir.errors import InfeasibleError, SearchError
from qir.search import Budget, Decision, PairCost, Problem, Relation, reward, solve
from qir.search.environment.rewards import REWARDS, RewardInputs

MEASURING = ("random", "evolution", "nsga2", "surrogate")


def problem(**given):
    given = {"costs": {"size": [[1, 2, 3]] * 2}, "sensitivity": [[3, 1, 0], [2, 1, 0]]} | given
    return Problem([Decision(name, (2, 4, 8)) for name in "ab"], **given)


@pytest.mark.parametrize("seed", range(5))
def test_a_budget_set_to_what_a_policy_costs_is_met_by_it(seed):
    rng = np.random.default_rng(seed)
    names = [f"l{i}" for i in range(12)]
    costs = {"energy": rng.random((12, 3)) * 10.0 ** rng.integers(-12, 6)}
    pairs = {"energy": [PairCost(a, b, rng.random((3, 3))) for a, b in itertools.pairwise(names)]}
    given = {"costs": costs, "pair_costs": pairs, "sensitivity": rng.random((12, 3))}
    decisions = [Decision(name, (2, 4, 8)) for name in names]
    row = rng.integers(0, 3, 12)
    free = Problem(decisions, **given)
    policy = free.policy(row)
    bounded = Problem(decisions, **given, budgets={"energy": Budget(maximum=free.cost("energy", policy))})
    assert bounded.violations(policy) == []
    assert bounded.feasible(row[None])[0]


@pytest.mark.parametrize("method", ["milp", "pareto-dp", "exhaustive", "random"])
def test_budgets_of_tiny_costs_are_kept(method):
    """Joules per inference are about 1e-12."""
    costs = {"energy": [[1e-12, 2.3e-12, 3.1e-12]] * 2}
    found = solve(problem(costs=costs, budgets={"energy": Budget(maximum=4.2e-12)}), method, evaluations=9)
    assert dict(found.policy) == {"a": 8, "b": 2}


@pytest.mark.parametrize("method", MEASURING)
def test_a_space_of_one_policy_is_searched(method):
    single = Problem([Decision("a", (8,)), Decision("b", (4,))], objective=lambda policy: 1.0)
    assert len(solve(single, method, evaluations=9).evaluations) == 1


@pytest.mark.parametrize("method", MEASURING)
def test_mutations_reach_one_free_decision_among_fixed_ones(method):
    decisions = [Decision(f"fixed{i}", (8,)) for i in range(4)] + [Decision("free", (2, 4, 8))]
    result = solve(Problem(decisions, objective=lambda p: float(p["free"])), method, evaluations=9)
    assert len(result.evaluations) == 3


def summed(policies):
    return np.array([sum(policy.values()) for policy in policies], dtype=float)


@pytest.mark.parametrize("method", ["exhaustive", *MEASURING])
def test_a_metric_out_of_reach_names_the_smallest(method):
    budgets = {"sum": Budget(maximum=5), "size": Budget(maximum=5)}
    with pytest.raises(InfeasibleError, match="smallest reachable is 6"):
        solve(problem(metrics={"sum": summed}, budgets=budgets, relations=[NOT_TWICE_2]), method, evaluations=9)


NOT_TWICE_2 = Relation("a", "b", {(2, 4), (4, 2), (4, 4)})


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: Decision("a", 8), "expected widths"),
        (lambda: Decision("a", ("x",)), "expected widths"),
        (lambda: Relation("a", "b", {3}), "expected pairs"),
        (lambda: Budget("0.6x"), "Budget.parse"),
        (lambda: Budget.parse(None), "expected a number"),
        (lambda: problem(budgets={"size": "0.6x"}), "Budget.parse"),
        (lambda: problem(costs={"size": 3}), "0 rows"),
        (lambda: problem(costs={"size": [["x", 2, 3]] * 2}), "expected numbers"),
        (lambda: problem(costs={"size": [[1, 2, -math.inf]] * 2}), "no -inf"),
        (lambda: problem(fixed_costs={"sise": 3}), "no cost has this name"),
        (lambda: problem(fixed_costs={"size": math.nan}), "not a finite number"),
        (lambda: problem(pair_costs={"size": [PairCost("a", "b", [[1, 2], [1]])]}), "rows of equal length"),
        (lambda: problem(features=[[1], [1, 2]]), "rows of equal length"),
        (lambda: problem(objective=3), "expected a callable"),
        (lambda: solve(problem(), "random", evaluations=1.5), "expected an integer"),
        (lambda: solve(problem(), "random", seed=-1), "expected an integer"),
        (lambda: solve(problem(), "random", time_limit=-1), "more than 0"),
    ],
)
def test_what_is_not_a_problem_is_refused_by_name(make, words):
    with pytest.raises(SearchError, match=words):
        make()


@pytest.mark.parametrize("metric", [lambda p: 1 / 0, lambda p: 1.0, lambda p: [math.nan] * len(p)])
def test_metrics_that_give_no_number_a_policy_are_named(metric):
    with pytest.raises(SearchError, match="metric 'peak'"):
        solve(problem(metrics={"peak": metric}, budgets={"peak": Budget(maximum=5)}), "exhaustive")


def test_random_search_of_a_large_space_needs_an_end():
    large = Problem([Decision(f"l{i}", (2, 4, 8)) for i in range(40)], objective=len)
    with pytest.raises(SearchError, match="time limit"):
        solve(large, "random")
    assert solve(large, "random", time_limit=0.2).evaluations


def test_costs_of_one_pair_in_several_parts_add_up_exactly():
    parts = [PairCost("a", "b", np.full((3, 3), 0.1)), PairCost("b", "a", np.full((3, 3), 0.2))]
    assert solve(problem(pair_costs={"time": parts}, budgets={"time": Budget(maximum=0.3)})).costs["time"] == 0.3


@pytest.mark.parametrize("method", MEASURING)
def test_a_time_limit_ends_a_batch_of_slow_evaluations(method):
    def slow(policy):
        time.sleep(0.05)
        return float(sum(policy.values()))

    large = Problem([Decision(f"l{i}", (2, 4, 8)) for i in range(12)], objective=slow)
    found = solve(large, method, time_limit=0.12)
    assert 1 <= len(found.evaluations) <= 4


@pytest.mark.parametrize("kind", REWARDS)
def test_rewards_of_networks_that_cost_or_reach_nothing_are_numbers(kind):
    assert math.isfinite(reward(kind)(RewardInputs(0.0, 0.0, {"latency": 0.0}, 0.0, 0.0)))
