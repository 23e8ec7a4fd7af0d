"""How AutoQNN trains, and what its two stages find."""

from __future__ import annotations

from dataclasses import dataclass, field

from qir.policy import Policy


@dataclass(frozen=True, slots=True)
class AutoQnnProtocol:
    """How AutoQNN trains. The paper gives epochs and width; rates, temperature and exponent are choices of qir.

    Attributes:
        scheme_epochs: epochs of the scheme search (paper: 10 on ImageNet).
        precision_epochs: epochs of precision learning (paper: 60).
        settling: share of the precision epochs, at the end, that train the weights at the rounded bits.
        batch: images a step.
        learning_rate: of the weights (SGD, cosine to zero in each stage).
        momentum: of the weights.
        scheme_rate: of the state parameters theta (Adam).
        bits_rate: of the bits (Adam).
        precision_weight: factor of the precision loss (paper: 1) or of the cost loss.
        start_temperature: tau_0 of equation 3.
        exponent: p of equation 3.
        seed: order of the images and Gumbel noise.
    """

    scheme_epochs: int = 10
    precision_epochs: int = 60
    settling: float = 0.25
    batch: int = 64
    learning_rate: float = 0.01
    momentum: float = 0.9
    scheme_rate: float = 0.02
    bits_rate: float = 0.02
    precision_weight: float = 1.0
    start_temperature: float = 5.0
    exponent: float = 2.0
    seed: int = 0


@dataclass(slots=True)
class SchemeSearch:
    """What the scheme search found.

    Attributes:
        schemes: the most probable scheme of each quantizer.
        probabilities: one entry per epoch: quantizer to scheme to probability (figure 6 of the paper).
        losses: mean loss of each epoch.
    """

    schemes: dict[str, str]
    probabilities: list[dict[str, dict[str, float]]] = field(default_factory=list)
    losses: list[float] = field(default_factory=list)


@dataclass(slots=True)
class PrecisionSearch:
    """What precision learning found.

    Attributes:
        policy: legal widths; rounded, then lowered where rounding went over the target.
        learned: the real-valued bits.
        average: average bits of the policy, or its cost where a cost was the target.
        target: what was asked for.
        elements: values of each quantizer, by which the average counts it (activations: of one sample).
        losses: mean loss of each epoch.
    """

    policy: Policy
    learned: dict[str, float]
    average: float
    target: float
    elements: dict[str, int]
    losses: list[float] = field(default_factory=list)
