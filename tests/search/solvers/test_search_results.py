import json
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qir.errors import SearchError
from qir.policy import Policy
from qir.search import Budget, Decision, Evaluation, Problem, leaderboard, solve
from qir.search.problem.result import pareto_front, read_result


def problem(**changes):
    return Problem(
        [Decision(f"l{i}", (2, 4, 8)) for i in range(3)],
        costs={"size": [[2, 4, 8]] * 3},
        budgets={"size": Budget(maximum=16)},
        **changes,
    )


points = st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9), st.integers(0, 9)), min_size=1, max_size=30)


@given(points, st.booleans())
def test_front_holds_exactly_what_nothing_dominates(values, minimised):
    rows = [Evaluation(Policy({"a": i}), float(v), {"x": x, "y": y}) for i, (v, x, y) in enumerate(values[:30])]
    front = pareto_front(rows, ["x", "y"], minimised)
    sign = 1 if minimised else -1

    def key(e):
        return (sign * e.value, e.costs["x"], e.costs["y"])

    def dominated(e):
        return any(key(o) != key(e) and all(p <= q for p, q in zip(key(o), key(e), strict=True)) for o in rows)

    assert {key(e) for e in front} == {key(e) for e in rows if not dominated(e)}
    assert len({key(e) for e in front}) == len(front)


def test_results_are_written_as_json_and_failures_are_null(tmp_path):
    p = problem(objective=lambda policy: float("nan") if policy["l0"] == 2 else 1.0)
    result = solve(p, "exhaustive")
    result.save(tmp_path / "result.json")
    data = json.loads((tmp_path / "result.json").read_text())
    assert data["policy"] == dict(result.policy)
    assert None in [e["value"] for e in data["evaluations"]]
    assert list(tmp_path.iterdir()) == [tmp_path / "result.json"]


def test_leaderboard_puts_the_best_first():
    p = problem(sensitivity=[[3, 2, 0], [3, 1, 0], [3, 1, 0]])
    rows = leaderboard([solve(p, "random", evaluations=1, seed=3), solve(p, "milp"), solve(p, "greedy")])
    assert rows[0][1] <= rows[1][1] <= rows[2][1]
    assert any("gap 0" in certificate for _, _, certificate, _ in rows)
    assert "none" in [certificate for _, _, certificate, _ in rows]


def test_best_after_so_many_evaluations():
    result = solve(problem(objective=lambda policy: float(sum(policy.values()))), "random", evaluations=10)
    assert [result.best_after(k) for k in range(1, 11)] == [
        max(e.value for e in result.evaluations[:k]) for k in range(1, 11)
    ]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("1000", Budget(maximum=1000)),
        ("0.6x", Budget(ratio=0.6)),
        (" 0.1x fp32 ", Budget(ratio=0.1, reference="fp32")),
    ],
)
def test_budgets_are_read(text, expected):
    assert Budget.parse(text) == expected


@pytest.mark.parametrize(
    "text", ["", "x", "fast", "0.6y", "1 2", "-1", "0", "0x", "-0.5x", "nanx", "nan", "inf", "1e999"]
)
def test_bad_budgets_are_named(text):
    with pytest.raises(SearchError, match="expected"):
        Budget.parse(text)


def test_a_named_reference_scales_the_budget():
    p = Problem(
        [Decision("a", (2, 4))],
        costs={"size": [[2, 4]]},
        budgets={"size": Budget.parse("0.1x fp32")},
        references={"fp32": {"size": 32.0}},
        sensitivity=[[1, 0]],
    )
    assert dict(solve(p, "milp").policy) == {"a": 2}


def test_the_face_loads_nothing_heavy():
    code = (
        "import sys; from qir.search import Problem, Decision, solve; "
        "p = Problem([Decision('a', (2, 8))], sensitivity=[[1, 0]]); solve(p, 'milp'); "
        "heavy = ('torch', 'gymnasium', 'stable_baselines3', 'pymoo', 'sqlalchemy', 'sklearn'); "
        "print([name for name in heavy if name in sys.modules])"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"


def test_reports_show_fronts_and_probabilities():
    from qir.search.report.page.report import Report

    problem = Problem(
        [Decision("a", (2, 8)), Decision("b", (2, 8))],
        costs={"latency": [[1.0, 4.0], [1.0, 4.0]]},
        budgets={"latency": Budget(maximum=6.0)},
        objective=lambda policy: float(sum(policy.values())),
    )
    found = solve(problem, "rl", evaluations=3, seed=0)
    assert len(found.probabilities[0]) == 2
    options = {d.name: [f"{bits} bits" for bits in d.options] for d in problem.decisions}
    shown = Report("search", results={"rl": found}, probabilities=found.probabilities, options=options).record()
    (search,) = shown["searches"]
    assert search["names"] == ["latency"]
    assert [value for _, value, _, _ in search["tried"]] == [e.value for e in found.evaluations]
    assert search["front"] == [[e.value, [e.costs["latency"]]] for e in found.front]
    assert len(shown["probabilities"][0]) == 2
    assert shown["options"]["a"] == ["2 bits", "8 bits"]


def test_values_of_a_proxy_are_labelled():
    problem = Problem([Decision("a", (2, 8))], sensitivity=[[1.0, 0.0]])
    for method in ("milp", "random", "rl"):
        options = {} if method == "milp" else {"evaluations": 2}
        assert any(note.startswith("proxy") for note in solve(problem, method, **options).notes)
    measured = Problem([Decision("a", (2, 8))], objective=lambda policy: float(policy["a"]))
    assert not solve(measured, "exhaustive").notes


def rewarded(**changes):
    """Accuracy rises with the bits, size too: no reward that counts bits prefers what is most accurate."""
    names = [f"d{i}" for i in range(4)]
    return Problem(
        [Decision(name, (2, 4, 8)) for name in names],
        costs={"size": [[2, 4, 8]] * 4},
        budgets={"size": Budget(maximum=26)},
        objective=lambda policy: 0.9 + 0.1 * sum(policy.values()) / 32,
        **changes,
    )


def test_a_method_returns_what_its_reward_prefers():
    found = solve(rewarded(), "rl", evaluations=40, seed=0, reward="releq-difference")
    rewards = [e.reward for e in found.evaluations]
    assert found.selected_by == "releq-difference"
    assert found.reward == max(rewards)
    for evaluation in found.evaluations:
        bits = sum(evaluation.policy.values()) / 32
        assert evaluation.reward == pytest.approx(evaluation.value - bits)
    assert found.value < max(e.value for e in found.evaluations)
    assert any(line.startswith("selected by") and "releq-difference" in line for line in found.lines("accuracy"))


def test_evolution_returns_the_policy_of_most_fitness(tmp_path):
    found = solve(rewarded(), "evolution", evaluations=40, seed=0, gamma=-0.5)
    expected = {e.policy: e.value * (e.costs["size"] / 32) ** -0.5 for e in found.evaluations}
    assert dict(found.policy) == dict(max(expected, key=expected.get))
    assert found.reward == pytest.approx(max(expected.values()))
    found.save(tmp_path / "result.json")
    assert read_result(tmp_path / "result.json").evaluations == list(found.evaluations)


def test_without_a_reward_of_its_own_a_method_returns_the_highest_value():
    for method, options in (("rl", {}), ("evolution", {}), ("random", {})):
        found = solve(rewarded(), method, evaluations=30, seed=0, **options)
        assert (found.selected_by, found.reward) == ("value", None)
        assert found.value == max(e.value for e in found.evaluations)
