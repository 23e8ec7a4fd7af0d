"""ADRL's augmented actor (Ning et al., 2021): several proposals, of which a profiled indicator passes one on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from qir.search.environment.gym import QuantizationEnv
from qir.search.problem.parts import Floats


@dataclass(frozen=True)
class Refinement:
    """Chooses among proposed actions by what was profiled, not by what was learned.

    The decision is read from the last column of the observation, its index over the number of decisions.

    Attributes:
        proposals: actions that the actor proposes.
        loss: [decisions, most options], loss of each option from narrow to wide, all other decisions at their widest.
        counts: [decisions], number of options.
    """

    proposals: int
    loss: Floats
    counts: Floats

    @staticmethod
    def of(env: QuantizationEnv, proposals: int) -> Refinement:
        """Return the refinement by the sensitivity of an environment's problem."""
        sensitivity = env.problem.tables.proxy
        counts = np.array([len(d.options) for d in env.problem.decisions], dtype=np.float64)
        loss = np.zeros(sensitivity.unary.shape)
        for decision, line in enumerate(sensitivity.unary):
            for option in range(int(counts[decision])):
                loss[decision, int(env.as_share(decision, option) * counts[decision])] = line[option]
        return Refinement(proposals, loss, counts)

    def best(self, observation: Floats, shares: Floats) -> int:
        """Return which of some actions [proposals] in 0 to 1 loses least; of equals the narrowest."""
        decision = round(float(observation[-1]) * len(self.counts))
        places = np.minimum(shares * self.counts[decision], self.counts[decision] - 1).astype(np.intp)
        return int(np.lexsort((places, self.loss[decision, places]))[0])

    def install(self, policy: Any, width: int, hidden: int) -> None:
        """Give the actors of a DDPG policy as many outputs as there are proposals, and this choice after them."""
        from torch.optim import Adam

        for actor in (policy.actor, policy.actor_target):
            actor.mu = self._head(width, hidden)
        policy.actor_target.load_state_dict(policy.actor.state_dict())
        policy.actor.optimizer = Adam(policy.actor.parameters())

    def _head(self, width: int, hidden: int) -> Any:
        import torch
        from stable_baselines3.common.torch_layers import create_mlp

        loss, counts = torch.as_tensor(self.loss), torch.as_tensor(self.counts)

        class Refined(torch.nn.Module):
            """Actions -1 to 1 [batch, 1] from observations [batch, width]."""

            def __init__(self, proposals: int) -> None:
                super().__init__()
                self.proposer = torch.nn.Sequential(
                    *create_mlp(width, proposals, [hidden, hidden], torch.nn.ReLU, squash_output=True)
                )

            def forward(self, seen: torch.Tensor) -> torch.Tensor:
                proposed = self.proposer(seen)
                decision = (seen[:, -1].double() * len(counts)).round().long()
                count = counts[decision][:, None]
                places = torch.minimum(0.5 * (proposed + 1.0) * count, count - 1).long()
                chosen = loss[decision].gather(1, places).argmin(1, keepdim=True)
                return torch.gather(proposed, 1, chosen)

        return Refined(self.proposals)
