"""ADRL's augmented actor (Ning et al., 2021): several proposals, of which a profiled indicator passes one on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from qir.search.environment.gym import QuantizationEnv
from qir.search.problem.parts import Floats, Indices
from qir.search.solvers.milp import least_sensitive
from qir.search.solvers.run import Run


@dataclass(frozen=True)
class Refinement:
    """Chooses among proposed actions by what was profiled, not by what was learned.

    The decision is read from the last column of the observation, its index over the number of decisions.

    Attributes:
        proposals: actions that the actor proposes.
        rank: [decisions, most options], place of each option, from narrow to wide, among those of its decision, best
            first: tolerable ones from narrow to wide, then the others by what they lose.
        counts: [decisions], number of options.
    """

    proposals: int
    rank: Indices
    counts: Floats

    @staticmethod
    def of(env: QuantizationEnv, proposals: int, tolerated: float = 0.0) -> Refinement:
        """Return the refinement by the sensitivity of an environment's problem.

        Args:
            env: its options are ordered from narrow to wide.
            proposals: actions that the actor proposes.
            tolerated: loss beyond a decision's least up to which options are equally good, scaled as in the tables.
        """
        sensitivity = env.problem.tables.proxy
        counts = np.array([len(d.options) for d in env.problem.decisions], dtype=np.float64)
        rank = np.zeros(sensitivity.unary.shape, dtype=np.intp)
        for decision, line in enumerate(sensitivity.unary):
            count = int(counts[decision])
            loss = np.zeros(count)
            for option in range(count):
                loss[int(env.as_share(decision, option) * count)] = line[option]
            loss -= loss.min()
            loss[loss <= tolerated] = 0.0
            rank[decision, np.argsort(loss, kind="stable")] = np.arange(count)
        return Refinement(proposals, rank, counts)

    def best(self, observation: Floats, shares: Floats) -> int:
        """Return which of some actions [proposals] in 0 to 1 ranks first."""
        decision = round(float(observation[-1]) * len(self.counts))
        places = np.minimum(shares * self.counts[decision], self.counts[decision] - 1).astype(np.intp)
        return int(np.argmin(self.rank[decision, places]))

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

        rank, counts = torch.as_tensor(self.rank), torch.as_tensor(self.counts)

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
                chosen = rank[decision].gather(1, places).argmin(1, keepdim=True)
                return torch.gather(proposed, 1, chosen)

        return Refined(self.proposals)


def tolerated_loss(run: Run) -> float:
    """Return the most that one decision loses beyond its least in the least sensitive policy within the budgets.

    In the scale of the tables; 0 where that policy is not known.
    """
    tables = run.problem.tables
    row = least_sensitive(run.problem)
    if row is None:
        return 0.0
    unary = tables.proxy.unary
    least = np.where(tables.legal, unary, np.inf).min(1)
    return float(np.max(unary[np.arange(len(row)), list(row)] - least))
