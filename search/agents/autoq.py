"""AutoQ's two agents: one sets goals for layers and widths of activations, the other widths of channels."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import numpy as np

from qir.search.agents.off_policy import PATIENCE, Ddpg, observations, shares
from qir.search.agents.patience import Patience
from qir.search.agents.ppo import build_environment
from qir.search.environment.gym import QuantizationEnv
from qir.search.environment.rewards import Reward
from qir.search.problem.parts import Floats
from qir.search.solvers.run import Outcome, Run

_CHANNEL = re.compile(r"^(.*)\[\d+\]$")
_EXTRINSIC = (0.1, 0.8)
"""Share of the final reward in the lower agent's, at the start and at the end."""


def autoq(
    run: Run,
    reward: Reward | str = "autoq",
    accuracy_scale: float = 1.0,
    warm_up: int = 20,
) -> Outcome:
    """AutoQ (Lou et al. 2020): one DDPG agent sets a layer's goal, another its channels' widths.

    Decisions whose names differ only in a channel number ("conv1.weight[3]") form a layer: the upper agent gives it a
    mean width as its goal, the lower one decides channel by channel. Every other decision is the upper agent's own. The
    lower reward is (1 - phi) times minus the distance of the layer's mean width from its goal (0 to 1) plus phi times
    the final reward, where phi rises from 0.1 to 0.8 (equation 2 of the paper, 47 of the survey of Rakka et al., per
    channel). Where the paper uses HIRO's goal correction, the goal is replaced by what was executed.

    Args:
        run: the run.
        reward: a reward or its name.
        accuracy_scale: turns the objective into a share in 0 to 1.
        warm_up: episodes of uniform actions.
    """
    env = build_environment(
        run,
        kind=reward,
        enforcement="mask",
        continuous=True,
        accuracy_scale=accuracy_scale,
    )
    agents = _Coordinator(env, decisions_of_layers(run.problem.names), run.seed, warm_up)
    total = run.ledger.remaining
    counts = {"episodes": 0, "projected": 0, "layers": len(agents.layers)}
    patience = Patience(run.ledger, PATIENCE)
    while run.ledger.remaining and not patience.over:
        info, final = agents.walk()
        if patience.after_episode():
            agents.learn(info["executed"], final, 1.0 - run.ledger.remaining / total)
        else:
            agents.pass_over()
        counts["episodes"] += 1
        counts["projected"] += info["projected"]
    notes = ["HIRO's goal correction is replaced by the executed goal", *patience.notes]
    return Outcome(counts=counts, notes=notes)


def decisions_of_layers(names: Sequence[str]) -> list[list[int]]:
    """Return positions of the decisions of each layer: neighbours whose names differ only in a channel number."""
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


class _Coordinator:
    """Walks an episode with both agents, and teaches both.

    The upper agent sees the observation and the goal of the layer before (1 at the start), the lower one sees the
    observation and the goal of its layer.
    """

    def __init__(self, env: QuantizationEnv, layers: list[list[int]], seed: int, warm_up: int) -> None:
        self._env, self.layers = env, layers
        width = env.observation_space.shape[0] + 1
        memory = 128 * len(env.problem.decisions)
        self._upper = Ddpg(width, seed=seed, warm_up=warm_up, memory=memory)
        self._lower = Ddpg(width, seed=seed + 1, warm_up=warm_up, memory=memory)
        self._goals: list[float] = []

    def walk(self) -> tuple[dict[str, Any], float]:
        """Return one episode: the `info` of its last step and its reward."""
        observation, _ = self._env.reset()
        info: dict[str, Any] = {}
        final, goal = 0.0, 1.0
        self._goals = []
        for layer in self.layers:
            goal = self._upper.act(np.append(observation, goal))
            self._goals.append(goal)
            for _ in layer:
                action = goal if len(layer) == 1 else self._lower.act(np.append(observation, goal))
                observation, final, _, _, info = self._env.step([action])
        return info, final

    def pass_over(self) -> None:
        """Learn nothing of an episode that repeated a policy; both agents explore more widely."""
        self._upper.pass_over()
        self._lower.pass_over()

    def learn(self, row: Sequence[int], final: float, progress: float) -> None:
        """Store what was executed: the upper agent's goals as they were met, the lower agent's widths.

        Args:
            row: executed option indices.
            final: reward of the episode.
            progress: share of the run that is over, 0 to 1.
        """
        taken, seen = shares(self._env, row), observations(self._env, row)
        means = [float(np.mean([taken[d] for d in layer])) for layer in self.layers]
        above = [
            np.append(seen[layer[0]], before) for layer, before in zip(self.layers, [1.0, *means[:-1]], strict=True)
        ]
        self._upper.learn(above, means, [final] * len(means))
        first, last = _EXTRINSIC
        phi = first + (last - first) * progress
        below: list[Floats] = []
        actions, rewards = [], []
        for layer, goal, mean in zip(self.layers, self._goals, means, strict=True):
            if len(layer) > 1:
                below += [np.append(seen[d], goal) for d in layer]
                actions += [taken[d] for d in layer]
                rewards += [phi * final - (1.0 - phi) * abs(goal - mean)] * len(layer)
        if below:
            self._lower.learn(below, actions, rewards)
