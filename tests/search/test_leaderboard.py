"""The closing table of `qir report`: measured values before proxies, the best first."""

from dataclasses import replace

from qir.cli.report import leaderboard
from qir.search import Decision, Problem, solve


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
