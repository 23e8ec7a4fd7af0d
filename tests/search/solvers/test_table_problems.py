import itertools
import time

import numpy as np
import pytest

from qir.errors import InfeasibleError, SearchError
from qir.search import Budget, Decision, PairCost, Problem, Relation, solve


def chain(length=5, seed=0, options=(2, 4, 8), budget="0.6x", objective=None):
    rng = np.random.default_rng(seed)
    names = [f"layer{i}" for i in range(length)]
    sensitivity = np.sort(rng.exponential(size=(length, len(options))), axis=1)[:, ::-1]
    pairs = [
        PairCost(a, b, rng.integers(1, 50, (len(options), len(options))).cumsum(0).cumsum(1))
        for a, b in itertools.pairwise(names)
    ]
    return Problem(
        decisions=[Decision(n, options) for n in names],
        costs={"size": [[o * 10 for o in options]] * length},
        pair_costs={"latency": pairs},
        relations=[Relation(names[0], names[1], {(2, 2), (4, 4), (8, 8), (8, 4)})],
        budgets={"size": Budget.parse(budget), "latency": Budget(ratio=0.7)},
        sensitivity=sensitivity,
        objective=objective,
    )


def brute_force(problem):
    sizes = [range(len(d.options)) for d in problem.decisions]
    policies = [problem.policy(row) for row in itertools.product(*sizes)]
    good = [p for p in policies if not problem.violations(p)]
    rows = np.array([problem.indices(p) for p in good])
    return good, problem.tables.sensitivity.total(rows).min()


@pytest.mark.parametrize("seed", range(4))
def test_milp_and_exhaustive_find_the_optimum(seed):
    problem = chain(seed=seed)
    _, optimum = brute_force(problem)
    for method in ("milp", "exhaustive"):
        result = solve(problem, method)
        assert result.status == "optimal"
        assert result.value == pytest.approx(optimum)
        assert result.gap <= 1e-6
        assert not problem.violations(result.policy)


def test_random_measures_every_feasible_policy_once():
    problem = chain(objective=lambda policy: float(sum(policy.values())))
    good, _ = brute_force(problem)
    result = solve(problem, "random", evaluations=10_000)
    assert {e.policy for e in result.evaluations} == set(good)
    assert len(result.evaluations) == len(good)


def test_random_keeps_budgets_in_a_space_too_large_to_enumerate():
    problem = chain(length=40, objective=lambda policy: float(sum(policy.values())))
    result = solve(problem, "random", evaluations=50)
    assert len({e.policy for e in result.evaluations}) == 50
    assert not any(problem.violations(e.policy) for e in result.evaluations)


def test_same_seed_same_evaluations():
    problem = chain(length=20, objective=lambda policy: float(sum(policy.values())))
    runs = [solve(problem, "random", evaluations=20, seed=3) for _ in range(2)]
    assert [e.policy for e in runs[0].evaluations] == [e.policy for e in runs[1].evaluations]


def test_infeasible_budget_names_the_smallest_reachable_cost():
    problem = chain(budget="99")
    with pytest.raises(InfeasibleError) as caught:
        solve(problem, "milp")
    assert caught.value.budget == "size"
    assert caught.value.smallest == 100


def test_budget_equal_to_the_cost_is_met_exactly():
    problem = Problem(
        [Decision("a", (2, 8)), Decision("b", (2, 8))],
        costs={"energy": [[0.1, 0.8], [0.2, 0.9]]},
        budgets={"energy": Budget(maximum=0.3)},
        sensitivity=[[1, 0], [1, 0]],
    )
    assert dict(solve(problem, "milp").policy) == {"a": 2, "b": 2}


def test_options_may_be_tuples_of_widths():
    options = ((2, 1), (4, 4), (8, 8))
    problem = Problem(
        [Decision("conv", options), Decision("fc", options)],
        costs={"latency": [[1, 4, 16], [2, 8, 32]]},
        budgets={"latency": Budget.parse("0.5x")},
        sensitivity=[[5, 1, 0], [9, 2, 0]],
    )
    result = solve(problem, "milp")
    assert dict(result.policy) == {"conv": (8, 8), "fc": (4, 4)}


def test_failures_are_recorded_skipped_and_counted():
    def objective(policy):
        if policy["layer0"] == 2:
            raise ValueError("boom")
        return float("nan") if policy["layer0"] == 4 else 1.0

    result = solve(chain(objective=objective), "random", evaluations=10_000)
    assert result.value == 1.0
    failed = [e for e in result.evaluations if e.error]
    assert result.counts["failed"] == len(failed) > 0
    assert any("boom" in e.error for e in failed)


def test_every_evaluation_failing_is_an_error_that_quotes_the_cause():
    def objective(policy):
        raise ValueError("no images")

    with pytest.raises(SearchError, match="no images"):
        solve(chain(objective=objective), "random", evaluations=3)


def test_milp_refuses_what_it_cannot_use():
    measured = Problem([Decision("a", (2, 8))], objective=lambda policy: 1.0)
    with pytest.raises(SearchError, match="additive sensitivity"):
        solve(measured, "milp")
    peak = Problem(
        [Decision("a", (2, 8))],
        metrics={"peak": lambda policies: np.array([p["a"] for p in policies])},
        budgets={"peak": Budget(maximum=4)},
        sensitivity=[[1, 0]],
    )
    with pytest.raises(SearchError, match="peak"):
        solve(peak, "milp")
    assert dict(solve(peak, "exhaustive").policy) == {"a": 2}


@pytest.mark.parametrize("method", ["exhaustive", "random"])
def test_a_metric_that_no_policy_keeps_names_the_smallest_value(method):
    problem = Problem(
        [Decision("a", (2, 8)), Decision("b", (2, 8))],
        metrics={"peak": lambda policies: np.array([max(p.values()) for p in policies])},
        budgets={"peak": Budget(maximum=1)},
        objective=lambda policy: 1.0,
    )
    with pytest.raises(InfeasibleError) as caught:
        solve(problem, method, evaluations=10)
    assert caught.value.smallest == 2


def test_time_ends_an_enumeration():
    def objective(policy):
        time.sleep(0.002)
        return 1.0

    problem = Problem([Decision(f"l{i}", (2, 4, 8)) for i in range(7)], objective=objective)
    result = solve(problem, "exhaustive", time_limit=0.3)
    assert result.status == "time-limit"
    assert result.bound is None


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"costs": {"size": [[1, 2, 3]]}}, "size"),
        ({"costs": {"size": [[1, float("nan")], [1, 2]]}}, "size"),
        ({"budgets": {"speed": Budget(maximum=1)}}, "speed"),
        ({"relations": [Relation("a", "z", {(2, 2)})]}, "'z'"),
        ({"relations": [Relation("a", "b", {(3, 3)})]}, "no option"),
        ({"pair_costs": {"latency": [PairCost("a", "b", [[1, 2]])]}}, "latency"),
    ],
)
def test_bad_problems_name_what_is_wrong(changes, words):
    base = {"decisions": [Decision("a", (2, 8)), Decision("b", (2, 8))], "sensitivity": [[1, 0], [1, 0]]}
    with pytest.raises(SearchError, match=words):
        Problem(**{**base, **changes})


def test_relative_budget_without_eight_bits_asks_for_a_reference():
    with pytest.raises(SearchError, match="reference"):
        Problem(
            [Decision("a", (2, 4))],
            costs={"size": [[2, 4]]},
            budgets={"size": Budget.parse("0.5x")},
            sensitivity=[[1, 0]],
        )


def test_unknown_methods_and_options_are_named():
    with pytest.raises(SearchError, match="annealing"):
        solve(chain(), "annealing")
    with pytest.raises(SearchError, match="speed"):
        solve(chain(), "milp", speed=3)


def test_a_time_limited_incumbent_is_not_called_optimal():
    rng = np.random.default_rng(0)
    problem = Problem(
        [Decision(f"l{i}", tuple(range(1, 9))) for i in range(300)],
        costs={n: rng.integers(1, 10**6, (300, 8)) for n in ("a", "b", "c")},
        budgets={n: Budget(maximum=300 * 3 * 10**5) for n in ("a", "b", "c")},
        sensitivity=rng.random((300, 8)),
    )
    result = solve(problem, "milp", time_limit=1.0)
    proved = result.bound is not None and result.gap <= 1e-6
    assert (result.status == "optimal") == proved
    assert result.bound is None or result.bound <= result.value
