"""DDPG agents in the configurations of the papers: HAQ, Wang 2024, ADRL, AutoQ."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import numpy as np

from qir.errors import SearchError
from qir.search.agents.off_policy import PATIENCE, Ddpg, run_episodes
from qir.search.agents.ppo import build_environment
from qir.search.problem import Floats
from qir.search.solvers.run import Outcome, Run

_CHANNEL = re.compile(r"^(.*)\[\d+\]$")


def haq(
    run: Run, reward: str = "haq", reference: float = 1.0, accuracy_scale: float = 1.0, warm_up: int = 20
) -> Outcome:
    """HAQ (Wang et al. 2019): DDPG, the budget sweep from the last layer, reward 0.1 (acc - acc_ref).

    Unlike the published code, the replay memory holds the actions that were executed after the sweep, and an episode
    starts from a clean state.

    Args:
        run: the run.
        reward: name of the reward.
        reference: accuracy of the reference network, a share.
        accuracy_scale: turns the objective into a share in 0 to 1.
        warm_up: episodes of uniform actions.
    """
    env = _environment(run, reward, "haq-sweep", reference, accuracy_scale)
    return Outcome(counts=run_episodes(env, _agent(env, run, warm_up=warm_up)))


def wang2024(
    run: Run,
    reward: str = "wang2024-reconstructed",
    reference: float = 1.0,
    accuracy_scale: float = 1.0,
    warm_up: int = 20,
) -> Outcome:
    """Wang et al. 2024: weight deviations in the state, reverse-order budget rule, reward of accuracy and ratio.

    The paper names no algorithm: DDPG, which its predecessor HAQ uses, is an assumption. Its reward is reconstructed.
    Arguments are those of `haq`.
    """
    env = _environment(run, reward, "reverse-order", reference, accuracy_scale)
    counts = run_episodes(env, _agent(env, run, warm_up=warm_up))
    notes = ["assumption: the paper names no algorithm; DDPG as in HAQ"]
    if reward == "wang2024-reconstructed":
        notes.append("reconstructed: the paper does not print its reward")
    return Outcome(counts=counts, notes=notes)


def adrl(
    run: Run,
    candidates: int = 4,
    reward: str = "haq",
    reference: float = 1.0,
    accuracy_scale: float = 1.0,
    warm_up: int = 20,
) -> Outcome:
    """ADRL (Ning et al. 2021): the actor proposes several actions, a profiled indicator picks the one to try.

    The profile is the problem's sensitivity (one layer quantized at a time) beside its first cost: the candidate with
    the least sum of both, each as a share of its range, is tried. That sum, and a critic that sees all candidates, are
    assumptions.

    Args:
        run: the run.
        candidates: actions per proposal.
        reward: name of the reward.
        reference: accuracy of the reference network, a share.
        accuracy_scale: turns the objective into a share in 0 to 1.
        warm_up: episodes of uniform actions.

    Raises:
        SearchError: the problem has no sensitivity to profile with.
    """
    if run.problem.tables.sensitivity is None:
        raise SearchError("adrl: needs a profile; give Problem(sensitivity=...) beside the objective")
    env = _environment(run, reward, "haq-sweep", reference, accuracy_scale)
    price = _profile(run)

    def choose(decision: int, actions: Floats) -> float:
        options = [env.project([a]) for a in actions]
        return float(actions[int(np.argmin([price[decision, o] for o in options]))])

    counts = run_episodes(env, _agent(env, run, actions=candidates, warm_up=warm_up), choose)
    return Outcome(counts=counts, notes=("assumption: indicator = sensitivity + cost; the critic sees all candidates",))


def autoq(
    run: Run,
    reward: str = "autoq",
    accuracy_scale: float = 1.0,
    warm_up: int = 20,
    intrinsic: float = 0.5,
) -> Outcome:
    """AutoQ (Lou et al. 2020): one DDPG agent sets a layer's goal, another its channels' widths.

    Decisions whose names differ only in a channel number ("conv1.weight[3]") form a layer; the upper agent gives each
    layer a mean width as its goal, the lower one decides channel by channel. The lower reward is the final one minus
    `intrinsic` times the distance of the layer's mean width from its goal (both 0 to 1). Where the paper uses HIRO's
    goal correction, the goal is replaced by what was executed.

    Args:
        run: the run.
        reward: name of the reward.
        accuracy_scale: turns the objective into a share in 0 to 1.
        warm_up: episodes of uniform actions.
        intrinsic: weight of the distance from the goal.
    """
    env = _environment(run, reward, "mask", 1.0, accuracy_scale)
    width = env.observation_space.shape[0]
    upper = Ddpg(width, seed=run.seed, warm_up=warm_up)
    lower = Ddpg(width + 1, seed=run.seed + 1, warm_up=warm_up)
    layers = layers_of(run.problem.names)
    counts = {"episodes": 0, "projected": 0, "layers": len(layers)}
    barren, known = 0, 0
    while env.ledger.remaining and barren < PATIENCE:
        info, final, goals = _walk(env, upper, lower, layers)
        _teach(env, upper, lower, layers, goals, info["executed"], final, intrinsic)
        counts["episodes"] += 1
        counts["projected"] += info["projected"]
        evaluated = len(env.ledger.evaluations)
        barren, known = (0, evaluated) if evaluated > known else (barren + 1, known)
    return Outcome(counts=counts, notes=("HIRO's goal correction is replaced by the executed goal",))


def layers_of(names: Sequence[str]) -> list[list[int]]:
    """Positions of the decisions of each layer: neighbours whose names differ only in a channel number."""
    layers: list[list[int]] = []
    last = None
    for i, name in enumerate(names):
        match = _CHANNEL.match(name)
        stem = match[1] if match else None
        if stem is not None and stem == last:
            layers[-1].append(i)
        else:
            layers.append([i])
        last = stem
    return layers


def _walk(env: Any, upper: Ddpg, lower: Ddpg, layers: list[list[int]]) -> tuple[dict[str, Any], float, list[float]]:
    observation, _ = env.reset()
    goals: list[float] = []
    info: dict[str, Any] = {}
    final = 0.0
    for layer in layers:
        goals.append(float(upper.act(observation)[0]))
        for _ in layer:
            action = lower.act(np.append(observation, goals[-1]))
            observation, final, _, _, info = env.step(action)
    return info, final, goals


def _teach(
    env: Any,
    upper: Ddpg,
    lower: Ddpg,
    layers: list[list[int]],
    goals: list[float],
    row: tuple[int, ...],
    final: float,
    intrinsic: float,
) -> None:
    shares = [env.as_share(d, option) for d, option in enumerate(row)]
    seen = [env.observation(row[:t]).astype(np.float64) for t in range(len(row))]
    means = [float(np.mean([shares[d] for d in layer])) for layer in layers]
    upper.learn([seen[layer[0]] for layer in layers], [np.array([m]) for m in means], [final] * len(layers))
    below, rewards = [], []
    for layer, goal, mean in zip(layers, goals, means, strict=True):
        below += [np.append(seen[d], goal) for d in layer]
        rewards += [final - intrinsic * abs(mean - goal)] * len(layer)
    lower.learn(below, [np.array([share]) for share in shares], rewards)


def _environment(run: Run, reward: str, enforcement: str, reference: float, accuracy_scale: float) -> Any:
    return build_environment(
        run,
        kind=reward,
        parameters=None,
        enforcement=enforcement,
        continuous=True,
        normalise=False,
        reference=reference,
        accuracy_scale=accuracy_scale,
    )


def _agent(env: Any, run: Run, *, warm_up: int, actions: int = 1) -> Ddpg:
    memory = 128 * len(run.problem.decisions)
    return Ddpg(env.observation_space.shape[0], actions, seed=run.seed, warm_up=warm_up, memory=memory)


def _profile(run: Run) -> Floats:
    """[decisions, most options]: sensitivity plus first cost, each as a share of its range over the whole problem."""
    tables = run.problem.tables
    parts = [tables.sensitivity, *list(tables.costs.values())[:1]]
    total = np.zeros(tables.legal.shape)
    for part in parts:
        if part is not None:
            span = float(np.ptp(part.unary[tables.legal])) or 1.0
            total += part.unary / span
    return total
