"""Reinforcement learning on a search problem: a Gymnasium environment that walks the decisions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np

from qir.errors import MissingExtraError, SearchError
from qir.search.environment.observation import QuantizationState, RankedRewards, StepRewards, static_features
from qir.search.environment.partial import Partial
from qir.search.environment.rewards import Reward, RewardInputs, reward
from qir.search.environment.trie import Trie
from qir.search.evaluation.ledger import Ledger
from qir.search.problem.completion import Completion
from qir.search.problem.enforcement import ENFORCEMENTS, bits_of
from qir.search.problem.parts import Floats
from qir.search.problem.problem import Problem
from qir.search.problem.tables import Bools

try:
    import gymnasium
    from gymnasium import spaces
except ImportError as error:
    raise MissingExtraError("gymnasium", "search") from error

Row = tuple[int, ...]
Observation = np.ndarray[Any, np.dtype[np.float32]]

_FAILED = -1.0


class QuantizationEnv(gymnasium.Env[Observation, Any]):  # type: ignore[misc]  # gymnasium may be absent
    """One episode decides every decision of a problem in order; its last step measures the policy.

    An observation is the features of the decision at hand, then three dynamic columns: the last executed action (0 to 1
    over the options from narrow to wide; 1 at the start), and what is left of the tightest budget if the rest is as
    cheap as possible: as a share of the budget, and as a share of what the rest could spend at most. With `dense`, the
    rewards that the options of the decision would get follow, with `states` ReLeQ's two columns, with `indexed` an
    index.

    `step`'s `info` holds at the end of an episode: "policy", "executed" (option indices after enforcement: what is to
    be learned from), "value", "raw_reward" and "projected" (how many actions were illegal and replaced by the nearest
    legal option).

    Args:
        problem: what is searched.
        ledger: measures policies; by default one without limits.
        features: [decisions, features] of the network and the hardware; `problem.features`, else what costs and
            sensitivity tell.
        kind: name of the reward (`qir.search.environment.rewards`) or a function.
        enforcement: "mask" (an option is legal only if the cheapest completion meets every budget; on a metric that is
            not additive: the narrowest one), or
            "reverse-order", "haq-sweep", "least-loss" (a finished policy is lowered until it does).
        continuous: the action is a number in 0 to 1 that selects among the options, narrow to wide.
        novel: options whose every completion was measured before are masked, so that no episode repeats a policy.
        normalise: a final reward is returned as the normal quantile of its rank among those so far.
        dense: each step of a problem that is all sensitivity returns minus how much its option raises what the best
            completion costs at least (`StepRewards`); the last step does not return the final reward again.
        stepwise: every step returns the reward of the policy so far, its rest as wide as the budgets let it be; each
            is measured and counts as an evaluation. 0 where it breaks a budget on a metric or none is left.
        reference: accuracy of the reference network, for rewards that need it.
        accuracy_scale: what turns the objective into a share in 0 to 1, for example 0.01 for percent.
        states: two more columns: ReLeQ's state of quantization of the policy so far, the rest at its widest, and its
            accuracy over the reference as last measured (1 unless `stepwise`).
        indexed: a last column tells the decision's index over the number of decisions.
        places: every decision is also a column of its own in the features.
        completion: backward tables of the problem, if the caller has them.

    Raises:
        SearchError: features do not fit, or the enforcement is unknown.
    """

    metadata: ClassVar[dict[str, Any]] = {"render_modes": []}

    def __init__(
        self,
        problem: Problem,
        ledger: Ledger | None = None,
        *,
        features: Sequence[Sequence[float]] | Floats | None = None,
        kind: str | Reward = "accuracy",
        enforcement: str = "mask",
        continuous: bool = False,
        novel: bool = False,
        normalise: bool = False,
        dense: bool = False,
        stepwise: bool = False,
        reference: float = 1.0,
        accuracy_scale: float = 1.0,
        states: bool = False,
        indexed: bool = False,
        places: bool = False,
        completion: Completion | None = None,
    ) -> None:
        super().__init__()
        if enforcement != "mask" and enforcement not in ENFORCEMENTS:
            raise SearchError(f"enforcement {enforcement!r}: unknown; known are {['mask', *ENFORCEMENTS]}")
        if enforcement == "least-loss" and problem.tables.sensitivity is None:
            raise SearchError("enforcement 'least-loss' needs a problem with a sensitivity")
        if novel and enforcement != "mask":
            raise SearchError("novel policies need enforcement 'mask': a sweep may lead to any policy")
        if dense and (problem.objective is not None or problem.tables.sensitivity is None or enforcement != "mask"):
            raise SearchError("dense rewards need a problem that is all sensitivity, and enforcement 'mask'")
        if stepwise and (dense or normalise or enforcement != "mask"):
            raise SearchError("stepwise rewards need enforcement 'mask'; they are neither dense nor normalised")
        self.problem = problem
        self._dense = StepRewards(problem) if dense else None
        self.ledger = ledger or Ledger(problem)
        self.ledger.episodic = True
        self._enforcement = enforcement
        self._completion = completion or Completion(problem.tables)
        self._relations = Completion(problem.tables, ())
        self._partial = Partial(problem, self._completion)
        self._reward = reward(kind) if isinstance(kind, str) else kind
        self._trie = Trie(self._completion) if novel else None
        self._statistics = RankedRewards() if normalise else None
        self._reference, self._scale = reference, accuracy_scale
        self._features = static_features(problem, features, derived=dense)
        if places:
            self._features = np.concatenate([self._features, np.eye(len(self._features))], axis=1)
        self._orders = [_narrow_to_wide(problem, d) for d in range(len(problem.decisions))]
        self._quantization = QuantizationState(problem)
        width = problem.tables.legal.shape[1]
        self.action_space = spaces.Box(0.0, 1.0, (1,), np.float32) if continuous else spaces.Discrete(width)
        self._indexed, self._states, self._stepwise = indexed, states, stepwise
        self._accuracies: dict[Row, float] = {}
        seen = self._features.shape[1] + 3 + (width if dense else 0) + 2 * states + indexed
        self.observation_space = spaces.Box(-np.inf, np.inf, (seen,), np.float32)
        self._prefix: list[int] = []
        self._projected = 0
        name = getattr(self._reward, "__name__", "function")
        if name != "accuracy":
            self.ledger.select_by(name, lambda row, score: self._reward(self.inputs(row, score)))

    @property
    def exhausted(self) -> bool:
        """Every feasible policy was measured (known of `novel` environments only)."""
        return self._trie is not None and self._trie.exhausted

    @property
    def sweeps(self) -> bool:
        """A finished policy may be changed by a sweep before it is measured."""
        return self._enforcement != "mask"

    @property
    def prefix(self) -> Row:
        """Option indices taken so far in this episode."""
        return tuple(self._prefix)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Observation, dict[str, Any]]:
        """Start an episode; nothing of the last one is left."""
        super().reset(seed=seed, options=options)
        self._prefix, self._projected = [], 0
        return self._observe(), {"action_mask": self.action_masks()}

    def action_masks(self) -> Bools:
        """Return which options of the next decision are legal [most options]."""
        return self.masks(self._prefix)

    def masks(self, prefix: Sequence[int]) -> Bools:
        """Return which options are legal after these were taken [most options]."""
        if len(prefix) == len(self.problem.decisions):
            return np.ones(self.problem.tables.legal.shape[1], dtype=bool)
        mask = self._relations.options(prefix) if self.sweeps else self._completion.options(prefix)
        mask = mask if self.sweeps else self._partial.within_metrics(prefix, mask)
        if self._trie is not None:
            mask = self._trie.novel(prefix, mask)
        return mask if mask.any() else self._relations.options(prefix)

    def step(self, action: Any) -> tuple[Observation, float, bool, bool, dict[str, Any]]:
        """Take one option; an illegal one is projected to the nearest legal one.

        Args:
            action: option index, or a number in 0 to 1 ([1]) of continuous environments.
        """
        option = self.project(action)
        self._prefix.append(option)
        info: dict[str, Any] = {"executed_action": option}
        done = len(self._prefix) == len(self.problem.decisions)
        result = self._finish(info) if done else self._interim()
        if self._dense is not None:
            result = self._dense.reward(self._prefix)
        if not done:
            info["action_mask"] = self.action_masks()
        return self._observe(), result, done, False, info

    def project(self, action: Any) -> int:
        """Return the legal option nearest to an action, and a note in the count of projections if it had to move."""
        order = self._orders[len(self._prefix)]
        mask = self.action_masks()
        if isinstance(self.action_space, spaces.Discrete):
            option = int(np.asarray(action).item())
            if mask[option]:
                return option
            place = float(order.index(option)) if option in order else float(len(order) - 1)
        else:
            share = float(np.clip(np.asarray(action, dtype=np.float64).reshape(-1)[0], 0.0, 1.0))
            place = share * len(order) - 0.5
            nearest = order[int(np.clip(round(place), 0, len(order) - 1))]
            if mask[nearest]:
                return nearest
        self._projected += 1
        return min((o for o in order if mask[o]), key=lambda o: (abs(order.index(o) - place), order.index(o)))

    def as_share(self, decision: int, option: int) -> float:
        """Return the continuous action that selects an option."""
        order = self._orders[decision]
        return (order.index(option) + 0.5) / len(order)

    def observation(self, prefix: Sequence[int]) -> Observation:
        """Return what is seen after these options were taken."""
        decision = min(len(prefix), len(self._features) - 1)
        last = self.as_share(len(prefix) - 1, prefix[-1]) if prefix else 1.0
        dynamic = [last, *self._completion.slack(prefix)]
        if self._dense is not None:
            dynamic += self._dense.outlook(prefix)
        if self._states:
            dynamic += [self._quantization.of(prefix), self._accuracies.get(tuple(prefix), 1.0)]
        if self._indexed:
            dynamic.append(decision / len(self._features))
        return np.concatenate([self._features[decision], dynamic]).astype(np.float32)

    def _observe(self) -> Observation:
        return self.observation(self._prefix)

    def _finish(self, info: dict[str, Any]) -> float:
        row: Row | None = tuple(self._prefix)
        if self.sweeps:
            row = ENFORCEMENTS[self._enforcement](self.problem, tuple(self._prefix))
        if self._trie is not None:
            self._trie.mark(self._prefix)
        info["executed"] = row or tuple(self._prefix)
        info["policy"] = self.problem.policy(info["executed"])
        info["projected"] = self._projected
        value = self._measured(row)
        raw = float("nan") if np.isnan(value) else self._reward(self.inputs(info["executed"], value))
        info["value"], info["raw_reward"] = value, raw
        self.ledger.report(info["executed"], raw)
        if self._statistics is None:
            return _FAILED if np.isnan(raw) else raw
        return self._statistics.normalised(raw)

    def _interim(self) -> float:
        row = self._partial.widest(self._prefix) if self._stepwise else None
        value = self._measured(row)
        if row is None or np.isnan(value):
            return 0.0
        self._accuracies[tuple(self._prefix)] = value * self._scale / self._reference
        return self._reward(self.inputs(row, value))

    def _measured(self, row: Row | None) -> float:
        """Score of a policy; NaN if it breaks a budget, no evaluation is left, or it failed."""
        if row is None or not self.problem.feasible(np.array([row]))[0]:
            return float("nan")
        return self.ledger.score(row) if self.ledger.known(row) or self.ledger.remaining else float("nan")

    def inputs(self, row: Row, value: float) -> RewardInputs:
        """Return what the reward of a policy is computed from."""
        policy = self.problem.policy(row)
        return RewardInputs(
            accuracy=value * self._scale,
            reference=self._reference,
            ratios={name: self.problem.ratio(name, policy) for name in self.problem.budgets},
            quantization=self._quantization.of(row),
            least=self._quantization.least,
        )


def _narrow_to_wide(problem: Problem, decision: int) -> list[int]:
    options = problem.decisions[decision].options
    return sorted(range(len(options)), key=lambda i: (bits_of(options[i]), i))
