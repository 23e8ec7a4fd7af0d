"""DDPG on episodes: executed actions and the final reward are stored when an episode ends, then the networks learn."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from qir.errors import MissingExtraError
from qir.search.problem import Floats

if TYPE_CHECKING:
    from qir.search.environment import QuantizationEnv

PATIENCE = 60
_BASELINE = 0.5


class Ddpg:
    """Stable-Baselines3's DDPG, driven episode by episode with HAQ's settings.

    Actor and critic have two hidden layers; Adam with separate learning rates; exploration is uniform at first, then
    truncated normal noise whose width decays per episode; a moving average of the reward is subtracted.

    Args:
        width: observation size.
        actions: numbers per action, each in 0 to 1.
        seed: seed of networks and noise.
        hidden: units of both hidden layers.
        actor_rate: learning rate of the actor.
        critic_rate: learning rate of the critic.
        warm_up: episodes of uniform actions.
        noise: first width of the noise.
        decay: factor on the width per episode.
        discount: gamma.
        batch: transitions per update.
        memory: transitions kept.
    """

    def __init__(
        self,
        width: int,
        actions: int = 1,
        *,
        seed: int = 0,
        hidden: int = 300,
        actor_rate: float = 1e-4,
        critic_rate: float = 1e-3,
        warm_up: int = 20,
        noise: float = 0.5,
        decay: float = 0.99,
        discount: float = 1.0,
        batch: int = 64,
        memory: int = 20_000,
    ) -> None:
        try:
            import gymnasium
            from stable_baselines3 import DDPG
            from stable_baselines3.common.logger import Logger
        except ImportError as error:
            raise MissingExtraError("stable-baselines3", "search") from error
        self._model: Any = DDPG(
            "MlpPolicy",
            _shapes_only(gymnasium, width, actions),
            learning_rate=actor_rate,
            buffer_size=memory,
            batch_size=batch,
            tau=0.01,
            gamma=discount,
            policy_kwargs={"net_arch": [hidden, hidden]},
            seed=seed,
            device="cpu",
        )
        self._model.set_logger(Logger(None, []))
        self._model._update_learning_rate = lambda _optimizers: _set_rates(self._model, actor_rate, critic_rate)
        self._generator = np.random.default_rng(seed)
        self._warm_up, self._noise, self._decay, self._batch = warm_up, noise, decay, batch
        self._actions = actions
        self._episode = 0
        self._stored = 0
        self._baseline: float | None = None

    def act(self, observation: Floats) -> Floats:
        """An action [actions] in 0 to 1, with exploration."""
        if self._episode < self._warm_up:
            return self._generator.random(self._actions)
        mean, _ = self._model.predict(observation.astype(np.float32), deterministic=True)
        width = self._noise * self._decay ** (self._episode - self._warm_up)
        return np.array([self._truncated(float(m), width) for m in np.asarray(mean).reshape(-1)])

    def learn(self, observations: Sequence[Floats], actions: Sequence[Floats], rewards: Sequence[float]) -> None:
        """Store an episode as it was executed and do one update per stored transition."""
        mean = float(np.mean(rewards))
        self._baseline = mean if self._baseline is None else (1 - _BASELINE) * self._baseline + _BASELINE * mean
        policy, buffer = self._model.policy, self._model.replay_buffer
        for t, (seen, action, reward) in enumerate(zip(observations, actions, rewards, strict=True)):
            last = t == len(actions) - 1
            following = seen if last else observations[t + 1]
            scaled = policy.scale_action(np.asarray(action, dtype=np.float32).reshape(1, -1))
            centred = np.array([reward - self._baseline], dtype=np.float32)
            buffer.add(
                np.asarray(seen[None], dtype=np.float32),
                np.asarray(following[None], dtype=np.float32),
                scaled,
                centred,
                np.array([last]),
                [{}],
            )
        self._episode += 1
        self._stored += len(actions)
        if self._episode >= self._warm_up and self._stored >= self._batch:
            self._model.train(gradient_steps=len(actions), batch_size=self._batch)

    def _truncated(self, mean: float, width: float) -> float:
        for _ in range(100):
            drawn = self._generator.normal(mean, max(width, 1e-6))
            if 0.0 <= drawn <= 1.0:
                return float(drawn)
        return float(np.clip(mean, 0.0, 1.0))


def _shapes_only(gymnasium: Any, width: int, actions: int) -> Any:
    """An environment that only tells its spaces."""

    class Shapes(gymnasium.Env):  # type: ignore[misc]  # gymnasium may be absent
        observation_space = gymnasium.spaces.Box(-np.inf, np.inf, (width,), np.float32)
        action_space = gymnasium.spaces.Box(0.0, 1.0, (actions,), np.float32)

    return Shapes()


def _set_rates(model: Any, actor: float, critic: float) -> None:
    for optimizer, rate in ((model.actor.optimizer, actor), (model.critic.optimizer, critic)):
        for group in optimizer.param_groups:
            group["lr"] = rate


Chooser = Callable[[int, Floats], float]


def run_episodes(env: QuantizationEnv, agent: Ddpg, choose: Chooser | None = None) -> dict[str, int]:
    """Episodes until the evaluations are used up, or only repeated policies came for long.

    The final reward goes to every transition of its episode.

    Args:
        env: a continuous environment.
        agent: the agent.
        choose: (decision, candidate actions) -> the one that is tried; by default the only one.

    Returns:
        Counts of episodes and projections.
    """
    counts = {"episodes": 0, "projected": 0}
    barren, known = 0, 0
    while env.ledger.remaining and barren < PATIENCE:
        candidates: list[Floats] = []
        info: dict[str, Any] = {}
        reward = 0.0
        observation, _ = env.reset()
        done = False
        while not done:
            action = agent.act(observation.astype(np.float64))
            candidates.append(action)
            tried = float(action[0]) if choose is None else choose(len(candidates) - 1, action)
            observation, reward, done, _, info = env.step([tried])
        row = info["executed"]
        seen = [env.observation(row[:t]).astype(np.float64) for t in range(len(row))]
        agent.learn(seen, [_executed(env, t, row[t], c) for t, c in enumerate(candidates)], [reward] * len(row))
        counts["episodes"] += 1
        counts["projected"] += info["projected"]
        evaluated = len(env.ledger.evaluations)
        barren, known = (0, evaluated) if evaluated > known else (barren + 1, known)
    return counts


def _executed(env: QuantizationEnv, decision: int, option: int, candidates: Floats) -> Floats:
    """The action as executed: the candidate nearest to the executed option moves onto it."""
    share = env.as_share(decision, option)
    action = candidates.copy()
    action[int(np.abs(action - share).argmin())] = share
    return action
