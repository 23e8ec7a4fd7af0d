"""The clock of a module: counters of its writes, and the names in use."""

from __future__ import annotations


class Clock:
    """What a module and all its graphs share: version counters and the names in use.

    `version` advances with every write except writes of `bits` on fake-quant nodes, which advance `policy_version`.
    An analysis is valid as long as the counters it depends on have not moved. `verified` is what the verifier
    remembers of its last success: both versions it saw and the settings it checked against.
    """

    __slots__ = ("_counts", "names", "policy_version", "verified", "version")

    def __init__(self) -> None:
        self.version = 0
        self.policy_version = 0
        self.verified: tuple[int, int, object] | None = None
        self.names: set[str] = set()
        self._counts: dict[str, int] = {}

    def unique_name(self, base: str) -> str:
        """Return `base`, or `base_1`, `base_2`, …: the first that no value or node has.

        It counts as used from now on.
        """
        name = base
        while name in self.names:
            count = self._counts[base] = self._counts.get(base, 0) + 1
            name = f"{base}_{count}"
        self.names.add(name)
        return name
