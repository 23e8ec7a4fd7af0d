"""When an agent gives up: its episodes only repeat policies that were measured before."""

from __future__ import annotations

from qir.search.evaluation.ledger import Ledger


class Patience:
    """Counts episodes in a row that measured nothing new.

    Args:
        ledger: where policies are measured.
        most: so many such episodes end the run.
    """

    def __init__(self, ledger: Ledger, most: int) -> None:
        self._ledger, self._most = ledger, most
        self._known = len(ledger.evaluations)
        self.repeats = 0

    def after_episode(self) -> bool:
        """Count an episode that ended; whether it measured a policy."""
        found = len(self._ledger.evaluations)
        fresh = found > self._known
        self.repeats = 0 if fresh else self.repeats + 1
        self._known = found
        return fresh

    @property
    def over(self) -> bool:
        """Whether the run should end although evaluations are left."""
        return self.repeats >= self._most

    @property
    def notes(self) -> list[str]:
        """Why the run ended early, where it did."""
        if not self.over:
            return []
        repeats = f"{self._most} episodes in a row repeated policies that were measured before"
        return [f"stopped early after {len(self._ledger.evaluations)} evaluations: {repeats}"]
