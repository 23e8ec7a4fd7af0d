"""Explanations: each alternative is the best there is, by enumeration; prices are the relaxation's duals."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from qir.errors import SearchError
from qir.policy import Policy
from qir.search import Budget, Decision, PairCost, Problem, Relation, solve
from qir.search.report.explanation import explain, prices
from qir.search.report.grounds import Grounds

WIDTHS = (2, 4, 8)


def random_problem(seed: int, share: float) -> Problem:
    """Four decisions, a cost of pairs with an illegal one, a tie, and a budget."""
    random = np.random.default_rng(seed)
    names = [f"layer{i}.weight" for i in range(4)]
    rows = np.sort(random.uniform(1, 9, (4, 3)), axis=1).round(3)
    pair = random.uniform(0, 5, (3, 3)).round(3)
    pair[0, 2] = np.inf
    return Problem(
        decisions=[Decision(name, WIDTHS) for name in names],
        costs={"latency": rows.tolist()},
        pair_costs={"latency": [PairCost(names[0], names[1], pair)]},
        relations=[Relation(names[2], names[3], frozenset({(2, 2), (4, 4), (8, 8), (8, 4)}))],
        budgets={"latency": Budget(maximum=float(rows.min(1).sum() + share * (rows.max(1) - rows.min(1)).sum()))},
        sensitivity=np.sort(random.uniform(0, 1, (4, 3)), axis=1)[:, ::-1].round(4).tolist(),
    )


def grounds_of(problem: Problem) -> Grounds:
    decided = {name: (name, dict(zip(WIDTHS, WIDTHS, strict=True))) for name in problem.names}
    return Grounds(decided, dict.fromkeys(problem.names, "nothing restricts it"), {}, problem)


@pytest.mark.parametrize("seed", range(6))
def test_every_alternative_is_the_best_policy_with_that_option(seed):
    problem = random_problem(seed, 0.3 + 0.1 * seed)
    result = solve(problem, "milp")
    rows = np.array(list(itertools.product(range(3), repeat=4)))
    rows = rows[problem.feasible(rows)]
    values = problem.tables.sensitivity.total(rows)
    for position, name in enumerate(problem.names):
        (explanation,) = explain(name, result.policy, grounds_of(problem), result)
        assert explanation.bits == result.policy[name]
        assert {other.bits for other in explanation.alternatives} == {*WIDTHS} - {result.policy[name]}
        for other in explanation.alternatives:
            these = values[rows[:, position] == WIDTHS.index(other.bits)]
            assert other.value == (pytest.approx(these.min()) if len(these) else None)
            assert len(these) or other.missed or not problem.tables.legal[position, WIDTHS.index(other.bits)]


def test_a_price_is_the_dual_of_the_relaxation():
    """Losses fall by 1 for 1 more of the cost in the first decision, for 2 more in the second, which is half taken."""
    problem = Problem(
        decisions=[Decision("a", (4, 8)), Decision("b", (4, 8))],
        costs={"size": [[1, 2], [1, 3]]},
        budgets={"size": Budget(maximum=4)},
        sensitivity=[[1, 0], [1, 0]],
    )
    assert prices(problem) == {"size": pytest.approx(0.5 * 4 / 100)}


def test_the_grounds_of_a_saved_record_explain_the_same():
    problem = random_problem(1, 0.5)
    result, grounds = solve(problem, "milp"), grounds_of(problem)
    again = Grounds.of_json(grounds.to_json())
    name = problem.names[0]
    assert explain(name, result.policy, again, result) == explain(name, result.policy, grounds, result)


def test_measured_policies_are_compared_with_the_others_that_were_measured():
    problem = random_problem(2, 0.9)
    measured = Problem(
        decisions=problem.decisions,
        costs=problem.costs,
        budgets=problem.budgets,
        objective=lambda policy: sum(policy.values()) / 100,
    )
    result = solve(measured, "random", evaluations=12, seed=0)
    grounds = Grounds.of_json({**grounds_of(problem).to_json(), "problem": None})
    (explanation,) = explain(problem.names[0], result.policy, grounds, result)
    for other in explanation.alternatives:
        tried = [e.value for e in result.evaluations if e.policy[problem.names[0]] == other.bits]
        assert other.value == (max(tried) if tried else None)


def test_a_layer_means_all_of_its_quantizers_and_a_wrong_name_is_told_the_nearest():
    problem = random_problem(3, 0.5)
    result = solve(problem, "milp")
    assert [e.quantizer for e in explain("layer1", result.policy, grounds_of(problem), result)] == ["layer1.weight"]
    with pytest.raises(SearchError, match=r"did you mean 'layer1'"):
        explain("layr1", Policy(result.policy), grounds_of(problem), result)
