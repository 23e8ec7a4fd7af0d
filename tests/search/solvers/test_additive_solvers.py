import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qir.errors import SearchError
from qir.search import Budget, Decision, PairCost, Problem, Relation, solve

WIDTHS = (2, 4, 8)


def problem(seed, length=5, budgets=("size",), related=True):
    rng = np.random.default_rng(seed)
    names = [f"l{i}" for i in range(length)]
    return Problem(
        [Decision(n, WIDTHS) for n in names],
        costs={"size": rng.integers(1, 20, (length, 3)).cumsum(1)},
        pair_costs={"latency": [PairCost(a, b, rng.integers(1, 20, (3, 3))) for a, b in itertools.pairwise(names)]},
        relations=[Relation.tie(names[1], names[3], WIDTHS)] if related else [],
        budgets={name: Budget(ratio=0.8, reference=dict.fromkeys(names, 8)) for name in budgets},
        sensitivity=rng.exponential(size=(length, 3)).cumsum(1)[:, ::-1],
    )


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10_000), st.sampled_from([("size",), ("size", "latency"), ()]))
def test_pareto_dp_equals_milp_and_enumeration(seed, budgets):
    p = problem(seed, budgets=budgets)
    try:
        best = solve(p, "exhaustive")
    except SearchError:
        return
    for method in ("milp", "pareto-dp"):
        found = solve(p, method)
        assert found.status == "optimal"
        assert found.value == pytest.approx(best.value, rel=1e-9)
        assert not p.violations(found.policy)


def test_pareto_dp_finds_the_whole_front():
    p = problem(3)
    sizes = [range(3)] * 5
    rows = np.array(list(itertools.product(*sizes)))
    rows = rows[p.feasible(rows)]
    size, value = p.tables.costs["size"].total(rows), p.tables.sensitivity.total(rows)
    expected = {
        (s, round(v, 9))
        for s, v in zip(size, value, strict=True)
        if not ((size <= s) & (value < v) | (size < s) & (value <= v)).any()
    }
    assert {(e.costs["size"], round(e.value, 9)) for e in solve(p, "pareto-dp").front} == expected


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10_000), st.sampled_from([("size",), ("size", "latency")]))
def test_lagrangian_bound_is_valid_and_its_policy_feasible(seed, budgets):
    p = problem(seed, budgets=budgets)
    try:
        best = solve(p, "exhaustive").value
        found = solve(p, "lagrangian")
    except SearchError:
        return
    assert found.bound <= best + 1e-9 <= found.value + 2e-9
    assert not p.violations(found.policy)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10_000))
def test_greedy_is_feasible_and_not_better_than_the_optimum(seed):
    p = problem(seed, budgets=("size", "latency"))
    try:
        best = solve(p, "exhaustive").value
        found = solve(p, "greedy")
    except SearchError:
        return
    assert not p.violations(found.policy)
    assert found.value >= best - 1e-9
    assert found.bound is None


def test_thinned_labels_are_not_called_optimal():
    p = problem(0, length=12, related=False)
    found = solve(p, "pareto-dp", labels=8)
    assert found.status == "feasible"
    assert found.bound is None
    assert found.value >= solve(p, "milp").value - 1e-9


@pytest.mark.parametrize("method", ["milp", "pareto-dp", "greedy", "lagrangian"])
def test_additive_solvers_refuse_a_measured_objective(method):
    with pytest.raises(SearchError, match=method):
        solve(Problem([Decision("a", (2, 8))], objective=lambda policy: 1.0), method)
