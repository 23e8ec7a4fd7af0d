"""Teaching an agent by examples, before it learns from rewards."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from qir.search.environment.gym import QuantizationEnv

_RATE = 1e-2


def teach(model: Any, env: QuantizationEnv, rows: Sequence[tuple[int, ...]], steps: int) -> None:
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
    optimizer = Adam(model.policy.parameters(), lr=_RATE)
    for _ in range(steps):
        _, chances, _ = model.policy.evaluate_actions(seen, taken, masks)
        loss = -chances.mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
