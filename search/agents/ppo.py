"""MaskablePPO (sb3-contrib) with forward budget masks: qir's own agent."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from itertools import islice
from typing import TYPE_CHECKING, Any

import numpy as np

from qir.errors import MissingExtraError, SearchError
from qir.search.agents.patience import Patience
from qir.search.environment.rewards import Reward
from qir.search.solvers.random import Sampler
from qir.search.solvers.run import Outcome, Run

if TYPE_CHECKING:
    from qir.search.environment.gym import QuantizationEnv

_PATIENCE = 200
_DENSE_STEPS = 256
_DENSE_TRACE = 0.5
_LEAST_RATE = 0.05
_EXAMPLES = 2048
_LESSONS = 100
_LESSON_RATE = 1e-2


def maskable_ppo(
    run: Run,
    reward: Reward | str = "accuracy",
    enforcement: str = "mask",
    novel: bool = True,
    reference: float = 1.0,
    accuracy_scale: float = 1.0,
    learning_rate: float = 3e-3,
    episodes_per_update: int | None = None,
    epochs: int = 20,
    entropy: float | None = None,
    record: bool = True,
) -> Outcome:
    """Proximal policy optimisation with action masks; after a sweep the executed policy is what is learned from.

    Where only finished policies have a reward, every decision is a column of its own in the observation, and the agent
    starts as random search: it is taught to draw like a uniform sample of the feasible policies. An untaught one spends
    the budget on the first decisions.

    The number of evaluations is the number of episodes that measure a policy; an episode that repeats one is free. The
    run ends when evaluations or policies are used up, or when only repeats came for long.

    Args:
        run: the run.
        reward: a reward (`qir.search.environment.rewards.reward`) or its name.
        enforcement: "mask", "reverse-order" or "haq-sweep".
        novel: mask options that only lead to policies that were measured before (with enforcement "mask").
        reference: accuracy of the reference network, for rewards that need it.
        accuracy_scale: turns the objective into a share in 0 to 1, for example 0.01 for percent.
        learning_rate: of Adam; where every step has a reward it falls in proportion to the evaluations left.
        episodes_per_update: episodes between updates; by default 4, or 256 steps where every step has a reward.
        epochs: passes over the episodes in an update.
        entropy: weight of the entropy bonus; by default 0.01, or 0 where every step has a reward.
        record: keep the action probabilities of every episode.

    Raises:
        SearchError: the number of evaluations was not given.
    """
    dense = run.problem.objective is None and reward == "accuracy" and enforcement == "mask"
    env = build_environment(
        run,
        kind=reward,
        enforcement=enforcement,
        novel=novel and enforcement == "mask",
        normalise=True,
        reference=reference,
        accuracy_scale=accuracy_scale,
        dense=dense,
        places=not dense,
    )
    try:
        from sb3_contrib import MaskablePPO
        from stable_baselines3.common.logger import Logger
    except ImportError as error:
        raise MissingExtraError("sb3-contrib", "search") from error
    decisions = len(run.problem.decisions)
    if episodes_per_update is not None and episodes_per_update < 2:
        raise SearchError(f"rl: episodes_per_update is {episodes_per_update}; expected 2 or more")
    steps = _DENSE_STEPS if dense and episodes_per_update is None else decisions * (episodes_per_update or 4)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        model = MaskablePPO(
            "MlpPolicy",
            env,
            learning_rate=_falling(run, learning_rate) if dense else learning_rate,
            n_steps=steps,
            batch_size=steps,
            n_epochs=epochs,
            gamma=1.0,
            gae_lambda=_DENSE_TRACE if dense else 1.0,
            ent_coef=(0.0 if dense else 0.01) if entropy is None else entropy,
            policy_kwargs={"net_arch": [64, 64]},
            seed=run.seed,
            device="cpu",
        )
        if not dense:
            draws = Sampler(run.problem, run.completion, run.generator).draw()
            _teach(model, env, list(islice(draws, max(1, _EXAMPLES // decisions))), _LESSONS)
        callback = episode_callback(run, env, record=record)
        model.set_logger(Logger(None, []))  # its own would leave an empty folder
        model.learn(total_timesteps=2**40, callback=callback)
    outcome: Outcome = callback.outcome()
    return outcome


def _falling(run: Run, rate: float) -> Callable[[float], float]:
    """Return a learning rate that falls with the evaluations left; the agent's own measure of progress is ignored."""
    first = max(1, run.ledger.remaining)
    return lambda _: rate * max(_LEAST_RATE, run.ledger.remaining / first)


def build_environment(
    run: Run, *, kind: Reward | str, enforcement: str, endless: bool = True, **options: Any
) -> QuantizationEnv:
    """Return the environment of an agent's run.

    Args:
        run: the run.
        kind: a reward or its name.
        enforcement: how budgets are kept.
        endless: nothing but a number of evaluations ends the agent.
        **options: of the environment.

    Raises:
        SearchError: the number of evaluations was not given.
    """
    from qir.search.environment.gym import QuantizationEnv

    if endless and run.ledger.remaining > 2**60:
        raise SearchError("reinforcement learning needs a number of evaluations: solve(..., evaluations=200)")
    return QuantizationEnv(
        run.problem,
        run.ledger,
        kind=kind,
        enforcement=enforcement,
        completion=run.completion,
        **options,
    )


def episode_callback(run: Run, env: QuantizationEnv, *, record: bool, episodes: int | None = None) -> Any:
    """Return a callback of Stable-Baselines3 that stops with the run, counts projections, records probabilities.

    Args:
        run: ends with its evaluations, and when nothing new comes for long.
        env: what the agent acts on.
        record: keep the action probabilities of every episode.
        episodes: the run ends after so many at the latest.
    """
    from stable_baselines3.common.callbacks import BaseCallback

    class Episodes(BaseCallback):  # type: ignore[misc]  # the base class is untyped
        """Ends the run; keeps counts and, per episode, the action probabilities of every decision."""

        def __init__(self) -> None:
            super().__init__()
            self.counts = {"episodes": 0, "projected": 0}
            self.probabilities: list[list[list[float]]] = []
            self._episode: list[list[float]] = []
            self.patience = Patience(run.ledger, _PATIENCE)

        def outcome(self) -> Outcome:
            """Return what was counted and recorded, and why the run ended early where it did."""
            return Outcome(
                counts=dict(self.counts),
                probabilities=tuple(self.probabilities),
                notes=tuple(self.patience.notes),
            )

        def _on_step(self) -> bool:
            if record:
                self._episode.append(self._current())
            info = self.locals["infos"][0]
            self._learn_executed(info["executed_action"])
            if "executed" not in info:
                return True
            self.counts["episodes"] += 1
            self.counts["projected"] += info["projected"]
            self.probabilities += [self._episode] if record else []
            if env.sweeps:
                self._rewrite(info["executed"])
            self._episode = []
            self.patience.after_episode()
            done = env.exhausted or self.patience.over or self.counts["episodes"] == episodes
            return bool(run.ledger.remaining) and not done

        def _learn_executed(self, option: int) -> None:
            """Replace a projected action in the rollout by the executed one, with its own probability."""
            if int(self.locals["actions"].reshape(-1)[0]) != option:
                from torch import no_grad, tensor

                self.locals["actions"].reshape(-1)[0] = option
                with no_grad():
                    self.locals["log_probs"][:] = self.model.policy.action_dist.log_prob(tensor([option]))

        def _rewrite(self, row: tuple[int, ...]) -> None:
            """After a sweep: the rollout holds the executed policy's observations, actions, masks and probabilities."""
            from torch import as_tensor, no_grad

            seen = np.stack([env.observation(row[:t]) for t in range(len(row))])
            masks = np.stack([env.masks(row[:t]) for t in range(len(row))])
            with no_grad():
                values, chances, _ = self.model.policy.evaluate_actions(as_tensor(seen), as_tensor(row), masks)
            buffer, last = self.model.rollout_buffer, len(row) - 1
            place = slice(buffer.pos - last, buffer.pos)
            buffer.observations[place, 0] = seen[:last]
            buffer.actions[place, 0, 0] = row[:last]
            buffer.action_masks[place, 0] = masks[:last]
            buffer.values[place, 0] = values[:last].flatten()
            buffer.log_probs[place, 0] = chances[:last]
            self.model._last_obs[0] = seen[last]
            self.locals["actions"].reshape(-1)[0] = row[last]
            self.locals["action_masks"][0] = masks[last]
            self.locals["values"][0] = values[last]
            self.locals["log_probs"][0] = chances[last]

        def _current(self) -> list[float]:
            distribution = getattr(self.model.policy, "action_dist", None)
            inner = getattr(distribution, "distribution", None)
            if inner is None:
                return []
            return [float(p) for p in np.asarray(inner.probs.detach().cpu()).reshape(-1)]

    return Episodes()


def _teach(model: Any, env: QuantizationEnv, rows: Sequence[tuple[int, ...]], steps: int) -> None:
    """Make policies likely, in so many supervised steps of Adam on the agent's cross-entropy.

    Args:
        model: sb3-contrib's MaskablePPO.
        env: its environment.
        rows: option indices of the policies; nothing is taught by none.
        steps: of gradient descent, each on all rows.
    """
    from torch import as_tensor
    from torch.optim import Adam

    if not rows:
        return
    prefixes = [row[:t] for row in rows for t in range(len(row))]
    seen = as_tensor(np.stack([env.observation(prefix) for prefix in prefixes]))
    masks = np.stack([env.masks(prefix) for prefix in prefixes])
    taken = as_tensor(np.concatenate(rows))
    optimizer = Adam(model.policy.parameters(), lr=_LESSON_RATE)
    for _ in range(steps):
        _, chances, _ = model.policy.evaluate_actions(seen, taken, masks)
        loss = -chances.mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
