"""Rewards of the papers, by name.

| kind | formula | source |
|---|---|---|
| accuracy | 10 acc; the budget is hard | qir's default |
| wang2024-reconstructed | alpha acc + beta / ratio | Wang 2024; reconstructed from its figures |
| haq | 0.1 (100 acc - 100 acc_ref) | HAQ, Wang et al. 2019, eq. 6 |
| releq | (1 - x^a) s^(b / s), x = quantization; -1 where s < threshold | ReLeQ, section 2.6: a .2, b .4, threshold .4 |
| releq-code | 2 ((1 - x^a) s^(b / s) - 1/2), x = quantization - least; -1 for small s | ReLeQ's published code |
| releq-ratio | s / quantization | ReLeQ, alternative 1 of its reward study |
| releq-difference | s - quantization | ReLeQ, alternative 2 |
| autoq | log(acc^t1 / (ratio^t2 ...)); t2 = 0: the budget is hard | AutoQ, Lou et al. 2020, eq. 1 |
| jasq | acc (ratio / target)^gamma; gamma = under (0) up to the target, above (-1) beyond | JASQ, Chen et al. 2018 |

acc is a share in 0 to 1, s = acc / acc_ref. Wang 2024 does not print its equation. What is minimised instead of
measured (an additive sensitivity) only works with "accuracy", and is then a proxy reward.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from qir.errors import SearchError
from qir.registry import Registry


@dataclass(frozen=True, slots=True)
class RewardInputs:
    """What a reward is computed from.

    Attributes:
        accuracy: value of the policy, a share in 0 to 1 (or minus the sensitivity, for "accuracy" only).
        reference: accuracy of the reference network.
        ratios: cost as a share of its reference, per budget.
        quantization: ReLeQ's state of quantization, section 2.4: mean over the decisions of bits over the most bits,
            weighted by `Problem.importance`.
        least: the smallest value that `quantization` can take.
    """

    accuracy: float
    reference: float = 1.0
    ratios: Mapping[str, float] | None = None
    quantization: float = 1.0
    least: float = 0.0

    @property
    def ratio(self) -> float:
        """The ratio of the first budget; 1 without budgets."""
        return next(iter(self.ratios.values())) if self.ratios else 1.0


Reward = Callable[[RewardInputs], float]


def _accuracy(inputs: RewardInputs, scale: float = 10.0) -> float:
    return scale * inputs.accuracy


def _positive(number: float) -> float:
    """Shares and accuracies that are divided by, or whose logarithm is taken, are at least a millionth."""
    return max(number, 1e-6)


def _wang2024(inputs: RewardInputs, alpha: float = 10.0, beta: float = 1.0) -> float:
    return alpha * inputs.accuracy + beta / _positive(inputs.ratio)


def _haq(inputs: RewardInputs, scale: float = 0.1) -> float:
    return scale * 100.0 * (inputs.accuracy - inputs.reference)


def _accuracy_state(inputs: RewardInputs) -> float:
    return max(0.0, inputs.accuracy / _positive(inputs.reference))


def _releq(inputs: RewardInputs, a: float = 0.2, b: float = 0.4, threshold: float = 0.4) -> float:
    state = _accuracy_state(inputs)
    if state < threshold:
        return -1.0
    return float((1.0 - inputs.quantization**a) * state ** (b / state))


def _releq_code(inputs: RewardInputs, a: float = 0.8, b: float = 1.0, threshold: float = 0.1) -> float:
    state = _accuracy_state(inputs)
    if state < threshold:
        return -1.0
    shaped: float = (1.0 - max(0.0, inputs.quantization - inputs.least) ** a) * state ** (b / state)
    return 2.0 * (shaped - 0.5)


def _releq_ratio(inputs: RewardInputs) -> float:
    return _accuracy_state(inputs) / _positive(inputs.quantization)


def _releq_difference(inputs: RewardInputs) -> float:
    return _accuracy_state(inputs) - inputs.quantization


def _autoq(inputs: RewardInputs, accuracy: float = 1.0, cost: float = 0.0) -> float:
    ratios = (inputs.ratios or {}).values()
    return accuracy * math.log(_positive(inputs.accuracy)) - cost * sum(math.log(_positive(r)) for r in ratios)


def _jasq(inputs: RewardInputs, target: float = 1.0, under: float = 0.0, above: float = -1.0) -> float:
    gamma = under if inputs.ratio <= target else above
    return inputs.accuracy * float((_positive(inputs.ratio) / target) ** gamma)


REWARDS: Registry[Callable[..., float]] = Registry(
    "reward",
    "qir.rewards",
    {
        "accuracy": _accuracy,
        "wang2024-reconstructed": _wang2024,
        "haq": _haq,
        "releq": _releq,
        "releq-code": _releq_code,
        "releq-ratio": _releq_ratio,
        "releq-difference": _releq_difference,
        "autoq": _autoq,
        "jasq": _jasq,
    },
    accepts=callable,
    expected="a function from RewardInputs and parameters to a number",
    error=SearchError,
)
"""Name of a reward → its function; one of another package is an entry point of the group `qir.rewards`."""


def reward(kind: str = "accuracy", **parameters: float) -> Reward:
    """Return the reward of that name.

    Args:
        kind: a name in the table above.
        **parameters: the formula's constants, by the names that the table uses (alpha, beta, a, b, threshold, under,
            above, target, scale; of autoq the exponents `accuracy` and `cost`, 1 and 0 under a budget, 2 and 0.5 in
            the paper where accuracy is guaranteed instead).

    Raises:
        SearchError: unknown kind or parameter.
    """
    function = REWARDS[kind]
    known = list(inspect.signature(function).parameters)[1:]
    unknown = sorted(set(parameters) - set(known))
    if unknown:
        raise SearchError(f"reward {kind!r}: unknown parameters {unknown}; it takes {known or 'none'}")

    def rewarded(inputs: RewardInputs) -> float:
        return function(inputs, **parameters)

    rewarded.__name__ = kind
    return rewarded
