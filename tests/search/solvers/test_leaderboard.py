"""What the shell says about results: the closing table of `qir report`, the lines of one result, clear errors."""

from dataclasses import replace

import pytest

from qir.cli.verbs.looking.report import leaderboard, read_all
from qir.errors import InfeasibleError
from qir.search import Budget, Decision, Problem, solve


def result(value: float, *, minimised: bool):
    problem = Problem(decisions=[Decision("a", (2, 8))], costs={"latency": [[1, 4]]}, objective=lambda _: 0.5)
    return replace(solve(problem, "exhaustive"), value=value, minimised=minimised)


def test_measured_values_come_first_and_the_best_leads() -> None:
    results = {
        "exact": result(0.01, minimised=True),
        "rl": result(0.9, minimised=False),
        "random": result(0.8, minimised=False),
        "greedy": result(0.02, minimised=True),
    }
    heading, *rows = leaderboard(results, "latency")
    assert [row[0] for row in rows] == ["rl", "random", "exact", "greedy"]
    assert all(len(row) == len(heading) for row in rows)


def test_a_result_says_bits_costs_limits_and_certificate():
    problem = Problem(
        [Decision(name, (2, 4, 8)) for name in "abc"],
        costs={"size": [[2, 4, 8]] * 3},
        budgets={"size": Budget.parse("0.5x")},
        sensitivity=[[3, 1, 0]] * 3,
    )
    lines = solve(problem, "milp").lines("divergence")
    assert lines[0] == "bits        3 decisions, 3 at 4 bits: a=4,b=4,c=4"
    assert lines[1] == "size        2 bytes (12 bits) of at most 2 bytes (12 bits)"
    assert lines[2] == "value       divergence 3 (smaller is better)"
    assert lines[3] == "certificate optimal, bound 3, gap 0 %"


def test_an_infeasible_share_is_answered_with_a_share():
    problem = Problem(
        [Decision("a", (2, 8))], costs={"size": [[2, 8]]}, budgets={"size": Budget.parse("0.1x")}, sensitivity=[[1, 0]]
    )
    with pytest.raises(InfeasibleError, match=r"at most 0.8 \(0.1x\); the smallest reachable is 2 \(0.25x\)"):
        solve(problem, "milp")


def test_results_of_one_name_in_two_folders_are_both_shown(tmp_path):
    problem = Problem([Decision("a", (2, 8))], sensitivity=[[1, 0]])
    for folder in "xy":
        (tmp_path / folder).mkdir()
        solve(problem, "milp").save(tmp_path / folder / "r.json")
    paths = [tmp_path / folder / "r.json" for folder in "xy"]
    assert list(read_all(paths)) == [str(path) for path in paths]
