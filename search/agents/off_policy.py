"""DDPG on episodes: executed actions and the final reward are stored when an episode ends, then the networks learn."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np

from qir.errors import MissingExtraError
from qir.search.agents.patience import Patience
from qir.search.agents.refinement import Refinement
from qir.search.problem.parts import Floats
from qir.search.solvers.run import Outcome

if TYPE_CHECKING:
    from qir.search.environment.gym import QuantizationEnv

PATIENCE = 200
"""Episodes in a row that may repeat policies: they cost no measurement, and are not learned from again."""

_REPEATS_A_PROPOSAL = 5
"""So many repeated policies in a row leave one proposal fewer to choose from (ADRL), down to one."""

_AVERAGING = 0.5
_LEAST_WIDTH = 1e-6


ACTOR_RATE, CRITIC_RATE = 1e-4, 1e-3
"""Learning rates of HAQ's published code."""


class Ddpg:
    """Stable-Baselines3's DDPG, driven episode by episode with HAQ's settings.

    Actor and critic have two hidden layers; Adam with separate learning rates; exploration is uniform at first, then
    truncated normal noise whose width decays; a moving average of the replayed rewards is subtracted.

    Args:
        width: observation size.
        seed: seed of networks and noise.
        hidden: units of both hidden layers.
        warm_up: episodes of uniform actions.
        noise: first width of the noise.
        decay: factor on the width per measured policy; an episode that repeats one widens it back by as much.
        batch: transitions per update.
        memory: transitions kept.
        refinement: the actor proposes several actions, of which this chooses (ADRL).
    """

    def __init__(
        self,
        width: int,
        *,
        seed: int = 0,
        hidden: int = 300,
        warm_up: int = 20,
        noise: float = 0.5,
        decay: float = 0.99,
        batch: int = 64,
        memory: int = 20_000,
        refinement: Refinement | None = None,
    ) -> None:
        try:
            import gymnasium
            from stable_baselines3 import DDPG
            from stable_baselines3.common.logger import Logger
        except ImportError as error:
            raise MissingExtraError("stable-baselines3", "search") from error
        self._model: Any = DDPG(
            "MlpPolicy",
            _shapes_only(gymnasium, width),
            learning_rate=ACTOR_RATE,
            buffer_size=memory,
            batch_size=batch,
            tau=0.01,
            gamma=1.0,
            policy_kwargs={"net_arch": [hidden, hidden]},
            replay_buffer_class=_centred_replay(),
            seed=seed,
            device="cpu",
        )
        self._model.set_logger(Logger(None, []))
        self._model._update_learning_rate = lambda _optimizers: _set_rates(self._model, ACTOR_RATE, CRITIC_RATE)
        self._refinement = refinement
        if refinement is not None:
            refinement.install(self._model.policy, width, hidden)
        self._generator = np.random.default_rng(seed)
        self._warm_up, self._noise, self._decay, self._batch = warm_up, noise, decay, batch
        self._episode = 0
        self._repeats = 0
        self._stored = 0

    def act(self, observation: Floats) -> float:
        """Return an action in 0 to 1, with exploration."""
        shares = self._explored(observation)
        if self._refinement is None:
            return float(shares[0])
        competing = shares[: max(1, len(shares) - self._repeats // _REPEATS_A_PROPOSAL)]
        return float(competing[self._refinement.best(observation, competing)])

    def learn(self, observations: Sequence[Floats], actions: Sequence[float], rewards: Sequence[float]) -> None:
        """Store an episode as it was executed and do one update per stored transition."""
        for t, (seen, action, reward) in enumerate(zip(observations, actions, rewards, strict=True)):
            last = t == len(actions) - 1
            self._model.replay_buffer.add(
                np.asarray(seen[None], dtype=np.float32),
                np.asarray((seen if last else observations[t + 1])[None], dtype=np.float32),
                np.array([[2.0 * action - 1.0]], dtype=np.float32),
                np.array([reward], dtype=np.float32),
                np.array([last]),
                [{}],
            )
        self._episode, self._repeats = self._episode + 1, 0
        self._stored += len(actions)
        if self._episode >= self._warm_up and self._stored >= self._batch:
            self._model.train(gradient_steps=len(actions), batch_size=self._batch)

    def pass_over(self) -> None:
        """Learn nothing of an episode that repeated a policy, and explore more widely."""
        self._repeats += 1

    def _explored(self, observation: Floats) -> Floats:
        """Return what the actor proposes [proposals], or random actions, each in 0 to 1."""
        count = 1 if self._refinement is None else self._refinement.proposals
        if self._episode < self._warm_up:
            return self._generator.random(count)
        from torch import as_tensor, float32, no_grad

        actor = self._model.actor.mu if self._refinement is None else self._model.actor.mu.proposer
        with no_grad():
            means = 0.5 * (actor(as_tensor(observation[None], dtype=float32))[0].numpy() + 1.0)
        width = self._noise * self._decay ** max(0, self._episode - self._warm_up - self._repeats)
        return np.array([self._truncated(float(mean), max(width, _LEAST_WIDTH)) for mean in means])

    def _truncated(self, mean: float, width: float) -> float:
        from scipy.stats import truncnorm

        low, high = -mean / width, (1.0 - mean) / width
        return float(truncnorm.rvs(low, high, loc=mean, scale=width, random_state=self._generator))


@cache
def _centred_replay() -> type:
    from stable_baselines3.common.buffers import ReplayBuffer

    class CentredReplay(ReplayBuffer):  # type: ignore[misc]  # the base class may be absent
        """A replay memory that subtracts a moving average of the replayed batches' mean reward."""

        average: float | None = None

        def sample(self, batch_size: int, env: Any = None) -> Any:
            """Return a batch of transitions with centred rewards."""
            found = super().sample(batch_size, env)
            mean = float(found.rewards.mean())
            self.average = mean if self.average is None else self.average + _AVERAGING * (mean - self.average)
            return found._replace(rewards=found.rewards - self.average)

    return CentredReplay


def _shapes_only(gymnasium: Any, width: int) -> Any:
    """Return an environment that only tells its spaces."""

    class Shapes(gymnasium.Env):  # type: ignore[misc]  # gymnasium may be absent
        observation_space = gymnasium.spaces.Box(-np.inf, np.inf, (width,), np.float32)
        action_space = gymnasium.spaces.Box(0.0, 1.0, (1,), np.float32)

    return Shapes()


def _set_rates(model: Any, actor: float, critic: float) -> None:
    for optimizer, rate in ((model.actor.optimizer, actor), (model.critic.optimizer, critic)):
        for group in optimizer.param_groups:
            group["lr"] = rate


def observations(env: QuantizationEnv, row: Sequence[int]) -> list[Floats]:
    """Return what is seen on the way to an executed policy, before each of its decisions."""
    return [env.observation(row[:t]).astype(np.float64) for t in range(len(row))]


def shares(env: QuantizationEnv, row: Sequence[int]) -> list[float]:
    """Return the actions that an executed policy stands for."""
    return [env.as_share(decision, option) for decision, option in enumerate(row)]


def run_episodes(env: QuantizationEnv, agent: Ddpg, notes: Sequence[str] = ()) -> Outcome:
    """Episodes of one agent; the final reward goes to every transition of its episode, as executed.

    Returns:
        Counts of episodes and projections, the notes, and why the run ended early where it did.
    """
    counts = {"episodes": 0, "projected": 0}
    patience = Patience(env.ledger, PATIENCE)
    while env.ledger.remaining and not patience.over:
        info: dict[str, Any] = {}
        reward, done = 0.0, False
        observation, _ = env.reset()
        while not done:
            observation, reward, done, _, info = env.step([agent.act(observation.astype(np.float64))])
        if patience.after_episode():
            row = info["executed"]
            agent.learn(observations(env, row), shares(env, row), [reward] * len(row))
        else:
            agent.pass_over()
        counts["episodes"] += 1
        counts["projected"] += info["projected"]
    return Outcome(counts=counts, notes=(*notes, *patience.notes))
