import itertools
from dataclasses import replace

import numpy as np
import pytest

from qir.errors import SearchError
from qir.search import Budget, Decision, PairCost, Problem, QuantizationEnv, Relation, solve
from qir.search.environment.observation import QuantizationState
from qir.search.environment.rewards import REWARDS, RewardInputs, reward
from qir.search.problem.completion import Completion
from qir.search.problem.enforcement import haq_sweep, reverse_order

PAIRS = {(2, 1), (4, 4), (8, 8)}


def seed_chain(layers=4, budget=0.5):
    """Activation and weight widths decided one after the other, joined by the legal operand pairs."""
    decisions, relations, costs = [], [], []
    for i in range(layers):
        decisions += [Decision(f"a{i}", (2, 4, 8)), Decision(f"w{i}", (1, 4, 8))]
        relations.append(Relation(f"a{i}", f"w{i}", PAIRS))
        costs.append(PairCost(f"a{i}", f"w{i}", np.outer([2, 4, 8], [1, 4, 8]) * (i + 1)))
    return Problem(
        decisions,
        pair_costs={"latency": costs},
        relations=relations,
        budgets={"latency": Budget(ratio=budget)},
        objective=lambda policy: sum(policy.values()) / (16.0 * layers),
    )


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("continuous", [False, True])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"enforcement": "reverse-order"},
        {"enforcement": "haq-sweep"},
        {"enforcement": "least-loss", "indexed": True},
        {"novel": True, "normalise": True, "places": True},
        {"states": True, "stepwise": True, "kind": "releq"},
        {"dense": True},
    ],
    ids=str,
)
def test_gymnasium_checker_finds_nothing(continuous, options):
    from gymnasium.utils.env_checker import check_env

    problem = seed_chain()
    if {"dense", "indexed"} & set(options):
        measured = None if "dense" in options else problem.objective
        problem = replace(problem, sensitivity=[[0.3, 0.1, 0.0]] * 8, objective=measured)
    check_env(QuantizationEnv(problem, continuous=continuous, **options), skip_render_check=True)


def test_stepwise_rewards_are_those_of_the_widest_completions():
    seen = []

    def objective(policy):
        seen.append(policy)
        return sum(policy.values()) / 48

    problem = replace(seed_chain(layers=2), budgets={}, objective=objective)
    env = QuantizationEnv(problem, kind="releq-difference", stepwise=True, states=True)
    env.reset()
    observation, reward, _, _, _ = env.step(1)
    wide = {"a0": 4, "w0": 4, "a1": 8, "w1": 8}
    assert [dict(p) for p in seen] == [wide]
    assert reward == pytest.approx(24 / 48 - 24 / 32)
    np.testing.assert_allclose(observation[-2:], [(4 + 8 + 8 + 8) / 32, 0.5])
    for _ in range(3):
        _, last, done, _, _ = env.step(1)
    assert done
    assert last == pytest.approx(16 / 48 - 16 / 32)
    assert len(env.ledger.evaluations) == len(seen) == 2  # what w0 and w1 must be was measured with a0 and a1


def test_masks_keep_budgets_on_metrics():
    problem = seed_chain(layers=3, budget=1.0)
    problem = replace(
        problem,
        metrics={"peak": lambda policies: np.array([max(p[f"a{i}"] * (i + 1) for i in range(3)) for p in policies])},
        budgets={"latency": Budget(ratio=0.8), "peak": Budget(maximum=12)},
    )
    env, rng = QuantizationEnv(problem), np.random.default_rng(0)
    for _ in range(20):
        env.reset()
        done = False
        while not done:
            _, _, done, _, info = env.step(rng.choice(np.flatnonzero(env.action_masks())))
        assert not problem.violations(info["policy"])


@pytest.mark.parametrize("enforcement", ["mask", "reverse-order", "haq-sweep"])
def test_every_episode_ends_in_a_feasible_policy(enforcement):
    problem = seed_chain(budget=0.2)
    env = QuantizationEnv(problem, enforcement=enforcement)
    rng = np.random.default_rng(0)
    for _ in range(30):
        env.reset()
        done = False
        while not done:
            action = rng.choice(np.flatnonzero(env.action_masks()))
            _, _, done, _, info = env.step(action)
        assert not problem.violations(info["policy"])
        assert problem.indices(info["policy"]) == info["executed"]


def test_masks_are_exact():
    problem = seed_chain(layers=2, budget=0.4)
    completion = Completion(problem.tables)
    rows = np.array(list(itertools.product(range(3), repeat=4)))
    feasible = {tuple(map(int, row)) for row in rows[problem.feasible(rows)]}
    assert completion.exact
    for length in range(4):
        for prefix in itertools.product(range(3), repeat=length):
            if any(row[:length] == prefix for row in feasible):
                expected = {row[length] for row in feasible if row[:length] == prefix}
                assert set(np.flatnonzero(completion.options(prefix))) == expected


@pytest.mark.parametrize("seed", range(3))
def test_masks_are_exact_under_two_budgets(seed):
    rng = np.random.default_rng(seed)
    problem = Problem(
        [Decision(f"l{i}", (2, 4, 8)) for i in range(5)],
        costs={"size": rng.integers(1, 20, (5, 3)), "energy": rng.random((5, 3))},
        budgets={"size": Budget(maximum=40), "energy": Budget(maximum=2.2)},
        sensitivity=rng.random((5, 3)),
    )
    completion = Completion(problem.tables)
    rows = np.array(list(itertools.product(range(3), repeat=5)))
    feasible = {tuple(map(int, row)) for row in rows[problem.feasible(rows)]}
    assert completion.feasible == bool(feasible)
    for prefix in {row[:3] for row in feasible}:
        assert set(np.flatnonzero(completion.options(prefix))) == {row[3] for row in feasible if row[:3] == prefix}


def test_relaxed_tables_never_forbid_a_feasible_policy(monkeypatch):
    monkeypatch.setattr("qir.search.problem.completion._LARGEST_TABLE", 3)
    rng = np.random.default_rng(0)
    names = [f"l{i}" for i in range(5)]
    pairs = [PairCost(a, b, rng.integers(0, 9, (3, 3))) for a, b in itertools.combinations(names, 2)]
    problem = Problem(
        [Decision(n, (2, 4, 8)) for n in names],
        pair_costs={"latency": pairs},
        budgets={"latency": Budget(maximum=30)},
        sensitivity=rng.random((5, 3)),
    )
    completion = Completion(problem.tables)
    assert not completion.exact
    rows = np.array(list(itertools.product(range(3), repeat=5)))
    for row in rows[problem.feasible(rows)]:
        assert all(completion.options(tuple(row[:t]))[row[t]] for t in range(5))


def test_reverse_order_lowers_weights_together_with_the_activations_before_them():
    problem = seed_chain(layers=3, budget=0.75)
    top = problem.indices(dict.fromkeys(problem.names, 8))
    lowered = problem.policy(reverse_order(problem, top))
    assert dict(lowered) == {"a0": 8, "w0": 8, "a1": 8, "w1": 8, "a2": 4, "w2": 4}


def test_reverse_order_reaches_every_layer_before_it_lowers_one_twice():
    problem = seed_chain(layers=2, budget=0.3)
    lowered = problem.policy(reverse_order(problem, problem.indices(dict.fromkeys(problem.names, 8))))
    assert dict(lowered) == {"a0": 4, "w0": 4, "a1": 4, "w1": 4}


def test_haq_sweep_lowers_one_decision_at_a_time_from_the_last():
    problem = Problem(
        [Decision(n, (2, 4, 8)) for n in "abc"],
        costs={"size": [[2, 4, 8]] * 3},
        budgets={"size": Budget(maximum=17)},
        sensitivity=[[1, 0, 0]] * 3,
    )
    assert dict(problem.policy(haq_sweep(problem, (2, 2, 2)))) == {"a": 8, "b": 4, "c": 4}


def test_illegal_actions_are_projected_and_counted():
    env = QuantizationEnv(seed_chain())
    env.reset()
    env.step(0)
    _, _, _, _, info = env.step(2)
    assert info["executed_action"] == 0
    for _ in range(6):
        _, _, _, _, info = env.step(0)
    assert info["projected"] == 1


def test_reset_leaves_nothing_of_the_last_episode():
    env = QuantizationEnv(seed_chain())
    first, _ = env.reset(seed=0)
    env.step(0)
    again, _ = env.reset(seed=0)
    np.testing.assert_array_equal(first, again)


def test_features_must_fit():
    with pytest.raises(SearchError, match="features"):
        QuantizationEnv(seed_chain(), features=np.zeros((3, 2)))


def test_unknown_enforcement_is_named():
    with pytest.raises(SearchError, match="wish"):
        QuantizationEnv(seed_chain(), enforcement="wish")


@pytest.mark.parametrize("kind", REWARDS)
def test_every_reward_grows_with_accuracy(kind):
    function = reward(kind)
    low, high = (function(RewardInputs(a, 0.9, {"latency": 0.5}, 0.5, 0.25)) for a in (0.5, 0.8))
    assert high > low


def test_reconstructed_reward_reaches_the_papers_figure():
    found = reward("wang2024-reconstructed")(RewardInputs(0.776, 1.0, {"latency": 0.775}))
    assert found == pytest.approx(9.053, abs=0.01)


def test_jasqs_fitness_is_accuracy_up_to_the_target_and_divided_by_the_excess_beyond():
    """Equation 33 of the survey of Rakka et al.: the exponent is 0 or -1."""
    found = [reward("jasq", target=0.5)(RewardInputs(0.8, ratios={"size": ratio})) for ratio in (0.2, 0.5, 1.0)]
    assert found == pytest.approx([0.8, 0.8, 0.4])


def test_releqs_reward_is_the_printed_one():
    """Section 2.6, by hand: 1 - 0.25 ** 0.2 is 0.2421, 0.5 ** 0.8 is 0.5743; below the threshold it is -1."""
    assert reward("releq")(RewardInputs(0.9, 0.9, quantization=0.25)) == pytest.approx(0.24214, abs=1e-5)
    assert reward("releq")(RewardInputs(0.45, 0.9, quantization=0.25)) == pytest.approx(0.24214 * 0.57435, abs=1e-5)
    assert reward("releq")(RewardInputs(0.35, 0.9, quantization=0.25)) == -1.0


def test_the_state_of_quantization_is_weighted_and_relative_to_the_most_bits():
    """Section 2.4, by hand: (3 * 2 + 1 * 4) / (4 * 4) at 2 and 4 of at most 4 bits."""
    decisions = [Decision("a", (2, 4)), Decision("b", (2, 4))]
    state = QuantizationState(Problem(decisions, objective=lambda policy: 0.0, importance=(3.0, 1.0)))
    assert state.of((0, 1)) == pytest.approx(10 / 16)
    assert state.of((0,)) == state.of((0, 1))
    assert state.least == pytest.approx(0.5)
    with pytest.raises(SearchError, match="importance"):
        Problem(decisions, objective=lambda policy: 0.0, importance=(3.0,))


def test_unknown_reward_parameter_is_named():
    with pytest.raises(SearchError, match="delta"):
        reward("haq", delta=1.0)


def test_rl_spends_its_evaluations_on_different_policies_and_tells_progress():
    seen = []
    result = solve(seed_chain(), "rl", evaluations=12, seed=0, progress=seen.append)
    assert len({e.policy for e in result.evaluations}) == 12
    assert [p.episode for p in seen] == list(range(1, 13))
    assert seen[-1].value == result.value
    assert all(0 < p.ratio <= 0.5 for p in seen)
    assert len(result.probabilities) == 12
    assert len(result.probabilities[0]) == 8


def test_rl_stops_when_every_policy_was_measured():
    result = solve(seed_chain(layers=2), "rl", evaluations=1000)
    assert len(result.evaluations) < 10


def test_interrupt_returns_the_best_so_far():
    calls = []

    def objective(policy):
        calls.append(policy)
        if len(calls) == 5:
            raise KeyboardInterrupt
        return sum(policy.values())

    problem = seed_chain()
    problem = Problem(
        problem.decisions, pair_costs=problem.pair_costs, relations=problem.relations, objective=objective
    )
    result = solve(problem, "rl", evaluations=50)
    assert result.status == "interrupted"
    assert result.value == max(sum(p.values()) for p in calls[:4])
