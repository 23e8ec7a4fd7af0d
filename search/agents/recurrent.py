"""ReLeQ's agent: proximal policy optimisation with an LSTM (sb3-contrib's RecurrentPPO)."""

from __future__ import annotations

import warnings

from qir.errors import MissingExtraError
from qir.search.agents.ppo import build_environment, episode_callback
from qir.search.environment.rewards import Reward
from qir.search.solvers.run import Outcome, Run


def releq(
    run: Run,
    reward: Reward | str = "releq",
    reference: float = 1.0,
    accuracy_scale: float = 1.0,
    learning_rate: float = 1e-4,
    clip: float = 0.1,
    epochs: int = 3,
    episodes: int = 2000,
    episodes_per_update: int = 1,
    stepwise: bool = False,
    record: bool = True,
) -> Outcome:
    """ReLeQ (Elthakeb et al. 2020) as its paper prints it: a reward weighs bits against accuracy, no budget.

    Section 2.7 and table 3: an LSTM of 128 units, then 128 and 128 units for the policy, 128 and 64 for the value; Adam
    with 1e-4, clip 0.1, 3 epochs, GAE 0.99; an update after every episode (section 3). The state has the states of
    quantization and of accuracy (table 1). Not printed, and taken from the published code: entropy 0.01, discount 0.9,
    2000 episodes. Advantages are not centred, as those of one episode would lose what the episode is worth.
    RecurrentPPO has no masks: an illegal action is projected to the nearest legal one, counted, and the executed action
    is what is learned from.

    Args:
        run: the run.
        reward: "releq", "releq-ratio", "releq-difference", "releq-code" (of the published code, which has clip 0.3 and
            one epoch), or another reward by name or as a function.
        reference: accuracy of the reference network, a share.
        accuracy_scale: turns the objective into a share in 0 to 1.
        learning_rate: of Adam.
        clip: of the probability ratio.
        epochs: passes over the episodes in an update.
        episodes: the run ends after so many; it ends earlier where evaluations are limited and used up.
        episodes_per_update: episodes between updates.
        stepwise: measure after every layer, as the paper does for shallow networks, not after the last one only.
        record: keep the action probabilities of every episode (the paper's figure 5).
    """
    env = build_environment(
        run,
        kind=reward,
        enforcement="mask",
        reference=reference,
        accuracy_scale=accuracy_scale,
        endless=False,
        states=True,
        stepwise=stepwise,
    )
    try:
        from sb3_contrib import RecurrentPPO
        from stable_baselines3.common.logger import Logger
    except ImportError as error:
        raise MissingExtraError("sb3-contrib", "search") from error
    steps = max(2, len(run.problem.decisions) * episodes_per_update)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        model = RecurrentPPO(
            "MlpLstmPolicy",
            env,
            learning_rate=learning_rate,
            n_steps=steps,
            batch_size=steps,
            n_epochs=epochs,
            gamma=0.9,  # of the published scripts for small networks
            gae_lambda=0.99,
            normalize_advantage=False,
            clip_range=clip,
            ent_coef=0.01,
            policy_kwargs={"lstm_hidden_size": 128, "net_arch": {"pi": [128, 128], "vf": [128, 64]}},
            seed=run.seed,
            device="cpu",
        )
        callback = episode_callback(run, env, record=record, episodes=episodes)
        model.set_logger(Logger(None, []))  # its own would leave an empty folder
        model.learn(total_timesteps=2**40, callback=callback)
    outcome: Outcome = callback.outcome()
    return outcome
