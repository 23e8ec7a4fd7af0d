"""DDPG agents in the configurations of the papers: HAQ, Wang 2024, ADRL. AutoQ has a file of its own."""

from __future__ import annotations

from qir.errors import SearchError
from qir.search.agents.off_policy import Ddpg, run_episodes
from qir.search.agents.ppo import build_environment
from qir.search.agents.refinement import Refinement, tolerated_loss
from qir.search.environment.gym import QuantizationEnv
from qir.search.environment.rewards import Reward
from qir.search.solvers.run import Outcome, Run


def haq(
    run: Run,
    reward: Reward | str = "haq",
    reference: float = 1.0,
    accuracy_scale: float = 1.0,
    warm_up: int = 20,
) -> Outcome:
    """HAQ (Wang et al. 2019): DDPG, the budget sweep from the last layer, reward 0.1 (acc - acc_ref).

    Unlike the published code, the replay memory holds the actions that were executed after the sweep, and an episode
    starts from a clean state.

    Args:
        run: the run.
        reward: a reward or its name.
        reference: accuracy of the reference network, a share.
        accuracy_scale: turns the objective into a share in 0 to 1.
        warm_up: episodes of uniform actions.
    """
    env = _environment(run, reward, "haq-sweep", reference, accuracy_scale)
    return run_episodes(env, _agent(env, run, warm_up))


def wang2024(
    run: Run,
    reward: Reward | str = "wang2024-reconstructed",
    reference: float = 1.0,
    accuracy_scale: float = 1.0,
    warm_up: int = 20,
) -> Outcome:
    """Wang et al. 2024: weight deviations in the state, reverse-order budget rule, reward of accuracy and ratio.

    The paper names no algorithm: DDPG, which its predecessor HAQ uses, is an assumption. Its reward is reconstructed.
    Arguments are those of `haq`.
    """
    env = _environment(run, reward, "reverse-order", reference, accuracy_scale)
    notes = ["assumption: the paper names no algorithm; DDPG as in HAQ"]
    if reward == "wang2024-reconstructed":
        notes.append("reconstructed: the paper does not print its reward")
    return run_episodes(env, _agent(env, run, warm_up), notes)


def adrl(
    run: Run,
    candidates: int = 4,
    reward: Reward | str = "haq",
    reference: float = 1.0,
    accuracy_scale: float = 1.0,
    warm_up: int = 20,
) -> Outcome:
    """ADRL (Ning et al. 2021): the actor proposes several actions, a profiled indicator passes one to the critic.

    The profile is the problem's sensitivity (one layer quantized at a time). Proposals that lose no more than some
    decision loses in the least sensitive policy inside the budget are equally good, and the narrowest of them is tried;
    where all lose more, the one that loses least. Without that, proposals near the widest option always won, and the
    budget rule led all of them to the same few policies. A policy over the budget is narrowed where that loses least.

    Args:
        run: the run.
        candidates: actions per proposal.
        reward: a reward or its name.
        reference: accuracy of the reference network, a share.
        accuracy_scale: turns the objective into a share in 0 to 1.
        warm_up: episodes of uniform actions.

    Raises:
        SearchError: the problem has no sensitivity to profile with.
    """
    if run.problem.tables.sensitivity is None:
        raise SearchError("adrl: needs a profile; give Problem(sensitivity=...) next to the objective")
    env = _environment(run, reward, "least-loss", reference, accuracy_scale, indexed=True)
    return run_episodes(env, _agent(env, run, warm_up, Refinement.of(env, candidates, tolerated_loss(run))))


def _environment(
    run: Run,
    reward: Reward | str,
    enforcement: str,
    reference: float,
    accuracy_scale: float,
    *,
    indexed: bool = False,
) -> QuantizationEnv:
    return build_environment(
        run,
        kind=reward,
        enforcement=enforcement,
        continuous=True,
        reference=reference,
        accuracy_scale=accuracy_scale,
        indexed=indexed,
    )


def _agent(env: QuantizationEnv, run: Run, warm_up: int, refinement: Refinement | None = None) -> Ddpg:
    memory = 128 * len(run.problem.decisions)
    return Ddpg(env.observation_space.shape[0], seed=run.seed, warm_up=warm_up, memory=memory, refinement=refinement)
