import numpy as np
import pytest

from qir.errors import SearchError
from qir.search import Budget, Decision, Problem, Relation, solve
from qir.search.agents.autoq import decisions_of_layers

AGENTS = ["haq", "wang2024", "adrl", "autoq", "releq", "rl"]


def problem(layers=3, sensitivity=True):
    decisions, relations, latency, loss = [], [], [], []
    for i in range(layers):
        decisions += [Decision(f"a{i}", (2, 4, 8)), Decision(f"w{i}", (1, 4, 8))]
        relations.append(Relation(f"a{i}", f"w{i}", {(2, 1), (4, 4), (8, 8)}))
        latency += [[2, 4, 8], [1, 4, 8]]
        loss += [[0.2, 0.05, 0.0], [0.3, 0.1, 0.0]]
    loss = np.array(loss) / layers
    index = {d.name: i for i, d in enumerate(decisions)}
    return Problem(
        decisions,
        costs={"latency": latency},
        relations=relations,
        budgets={"latency": Budget.parse("0.6x")},
        sensitivity=loss if sensitivity else None,
        objective=lambda p: 0.95 - sum(loss[index[n], decisions[index[n]].options.index(b)] for n, b in p.items()),
    )


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("method", AGENTS)
def test_agents_measure_feasible_policies_only(method):
    p = problem()
    result = solve(p, method, evaluations=3, seed=0)
    assert 1 <= len(result.evaluations) <= 3
    assert not any(p.violations(e.policy) for e in result.evaluations)
    assert len({e.policy for e in result.evaluations}) == len(result.evaluations)
    assert result.counts["episodes"] >= len(result.evaluations)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("method", ["haq", "releq"])
def test_agents_are_reproducible(method):
    runs = [solve(problem(), method, evaluations=5, seed=2) for _ in range(2)]
    assert [e.policy for e in runs[0].evaluations] == [e.policy for e in runs[1].evaluations]


@pytest.mark.filterwarnings("ignore")
def test_after_a_sweep_the_executed_policy_is_learned_from(monkeypatch):
    from sb3_contrib import MaskablePPO

    rollouts = []
    train = MaskablePPO.train

    def spy(model):
        rollouts.append(model.rollout_buffer.actions.reshape(-1, 6).astype(int).tolist())
        train(model)

    monkeypatch.setattr(MaskablePPO, "train", spy)
    p = problem()
    seen = []
    solve(p, "rl", evaluations=5, enforcement="reverse-order", episodes_per_update=2, progress=seen.append)
    executed = [list(p.indices(progress.policy)) for progress in seen]
    learned = [row for rollout in rollouts for row in rollout]
    assert learned == executed[: len(learned)]
    assert len(rollouts) >= 2


@pytest.mark.filterwarnings("ignore")
def test_ddpg_learns_after_its_warm_up():
    result = solve(problem(), "haq", evaluations=7, seed=0, warm_up=3)
    assert result.counts["episodes"] > 6


def test_assumptions_are_told():
    notes = " ".join(solve(problem(), "wang2024", evaluations=3).notes)
    assert "assumption" in notes
    assert "reconstructed" in notes


def test_adrl_needs_a_profile():
    with pytest.raises(SearchError, match="profile"):
        solve(problem(sensitivity=False), "adrl", evaluations=3)


@pytest.mark.filterwarnings("ignore")
def test_releq_projects_illegal_actions_and_records_probabilities():
    result = solve(problem(), "releq", evaluations=6, seed=0)
    assert result.counts["projected"] > 0
    assert len(result.probabilities) == result.counts["episodes"]
    np.testing.assert_allclose([sum(step) for step in result.probabilities[0]], 1.0, rtol=1e-5)


def test_channels_of_a_layer_are_grouped():
    assert decisions_of_layers(["a", "w[0]", "w[1]", "v[0]", "b"]) == [[0], [1, 2], [3], [4]]


@pytest.mark.filterwarnings("ignore")
def test_rl_starts_as_random_search_does():
    """Under a tight budget a uniform choice among legal options would leave only narrow ones to the last layers."""
    names = [f"l{i}" for i in range(8)]
    p = Problem(
        [Decision(name, (2, 3, 4, 5, 8)) for name in names],
        costs={"bits": [[2, 3, 4, 5, 8]] * 8},
        budgets={"bits": Budget(maximum=24)},
        objective=lambda policy: 0.0,
    )
    found = solve(p, "rl", evaluations=60, seed=0, learning_rate=0.0, record=False)
    means = np.mean([[e.policy[name] for name in names] for e in found.evaluations], axis=0)
    assert abs(means[:4].mean() - means[4:].mean()) < 0.5


def test_replayed_rewards_are_centred_at_sampling():
    from qir.search.agents.off_policy import Ddpg

    agent = Ddpg(2, batch=64, warm_up=99)
    for reward in (0.0, 1.0) * 50:
        agent.learn([np.zeros(2)], [0.25], [reward])
    replayed = agent._model.replay_buffer.sample(512)
    assert abs(float(replayed.rewards.mean())) < 0.2
    assert float(np.ptp(replayed.rewards.numpy())) == 1.0
    assert set(replayed.actions.numpy().ravel()) == {-0.5}


def test_adrl_passes_on_the_proposal_that_loses_least():
    import torch

    from qir.search import QuantizationEnv
    from qir.search.agents.off_policy import Ddpg
    from qir.search.agents.refinement import Refinement

    env = QuantizationEnv(problem(), enforcement="least-loss", continuous=True, indexed=True)
    refinement = Refinement.of(env, 4)
    assert refinement.rank[1].tolist() == [2, 1, 0]
    observation = env.observation((0,)).astype(np.float64)
    assert refinement.best(observation, np.array([0.1, 0.5, 0.9, 0.7])) == 2
    agent = Ddpg(len(observation), warm_up=0, refinement=refinement)
    actor = agent._model.actor
    seen = torch.as_tensor(observation[None], dtype=torch.float32)
    shares = 0.5 * (actor.mu.proposer(seen)[0].detach().numpy() + 1)
    assert 0.5 * (actor(seen).item() + 1) == pytest.approx(shares[refinement.best(observation, shares)])


def test_autoq_upper_agent_decides_what_has_no_channels():
    from qir.search import QuantizationEnv
    from qir.search.agents.autoq import _Coordinator

    p = Problem([Decision(n, (2, 4, 8)) for n in ("a", "w[0]", "w[1]", "b")], objective=lambda policy: 0.5)
    env = QuantizationEnv(p, continuous=True)
    agents = _Coordinator(env, decisions_of_layers(p.names), 0, 1)
    info, final = agents.walk()
    agents.learn(info["executed"], final, 0.5)
    upper, lower = (agent._model.replay_buffer for agent in (agents._upper, agents._lower))
    assert (upper.pos, lower.pos) == (3, 2)
    means = [env.as_share(0, info["executed"][0]), np.mean([env.as_share(d, info["executed"][d]) for d in (1, 2)])]
    np.testing.assert_allclose(0.5 * (upper.actions[:2, 0, 0] + 1), means)
    distance = abs(agents._goals[1] - means[1])
    np.testing.assert_allclose(lower.rewards[:2, 0], 0.45 * final - 0.55 * distance, rtol=1e-5)


def test_adrl_prefers_the_narrowest_of_proposals_that_are_equally_good():
    from qir.search import QuantizationEnv
    from qir.search.agents.refinement import Refinement

    env = QuantizationEnv(problem(), enforcement="least-loss", continuous=True, indexed=True)
    loss = np.array([0.3, 0.1, 0.0]) / 3 * env.problem.tables.proxy.scale
    refinement = Refinement.of(env, 3, tolerated=float(loss[1]))
    assert refinement.rank[1].tolist() == [2, 0, 1]
    observation = env.observation((0,)).astype(np.float64)
    assert refinement.best(observation, np.array([0.9, 0.5, 0.1])) == 1
    assert refinement.best(observation, np.array([0.9, 0.1, 0.8])) == 0


@pytest.mark.filterwarnings("ignore")
def test_adrl_goes_on_until_its_evaluations_are_used_up():
    found = solve(problem(layers=4), "adrl", evaluations=18, seed=0)
    assert len(found.evaluations) == 18
    assert not any(note.startswith("stopped early") for note in found.notes)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("method", ["haq", "adrl", "autoq", "releq"])
def test_an_agent_that_meets_nothing_new_says_that_it_stopped_early(method):
    names = ["a", "b"]
    p = Problem(
        [Decision(name, (2, 8)) for name in names],
        costs={"size": [[2.0, 8.0]] * 2},
        budgets={"size": Budget(maximum=10)},
        sensitivity=[[1.0, 0.0]] * 2,
        objective=lambda policy: 0.5 + sum(policy.values()) / 100,
    )
    found = solve(p, method, evaluations=50, seed=0)
    assert len(found.evaluations) <= 3
    assert any(note.startswith("stopped early") for note in found.notes)


@pytest.mark.filterwarnings("ignore")
def test_releq_measures_after_every_layer_if_asked_to():
    p = problem(layers=6)
    result = solve(p, "releq", evaluations=12, seed=0, stepwise=True)
    assert result.counts["episodes"] < len(result.evaluations) == 12
    assert not any(p.violations(e.policy) for e in result.evaluations)
