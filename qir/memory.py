"""One memory budget for the whole process: how many bytes it may take, and how many of them are left.

    with budgeted("2GB"):
        memory_budget().require(needed, "one sample")
        kept = memory_budget().share(most)

Budgets decide what is kept and what is computed again, never what is computed: results do not depend on them. Whoever
asks finds the budget by context, as loggers and warnings are found; without one it is half of what is free.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path

from qir.errors import QirError

UNKNOWN = 2 << 30
"""Bytes that are taken to be free where the system does not tell."""

SHARE = 2
"""A cache may take one part in so many of what is left: the rest is for the work itself."""

_UNITS = {
    "": 1,
    "K": 10**3,
    "M": 10**6,
    "G": 10**9,
    "T": 10**12,
    "KI": 1 << 10,
    "MI": 1 << 20,
    "GI": 1 << 30,
    "TI": 1 << 40,
}


@dataclass(frozen=True, slots=True)
class MemoryBudget:
    """Bytes that the process may take in all, the interpreter and its libraries included.

    Attributes:
        total: the bytes.
    """

    total: int

    @classmethod
    def of_free(cls) -> MemoryBudget:
        """Return what the process takes now and half of what is free."""
        return cls(resident() + free() // 2)

    @classmethod
    def parse(cls, text: str | int) -> MemoryBudget:
        """Return a budget from bytes, or text such as `2GB`, `1.5GiB` or `800M`.

        Raises:
            QirError: the text has another form, or is not more than 0.
        """
        found = re.fullmatch(r"(\d+\.?\d*)\s*([KMGT]?I?)B?", str(text).strip().upper())
        total = int(float(found[1]) * _UNITS.get(found[2], 0)) if found else 0
        if total <= 0:
            raise QirError(f"memory {text!r}: expected more than 0 bytes, for example 2GB, 1.5GiB or 800M")
        return cls(total)

    @property
    def left(self) -> int:
        """Bytes that the process does not take yet; 0 where it takes them all."""
        return max(self.total - resident(), 0)

    def share(self, most: int) -> int:
        """Return bytes that a cache may keep: `most`, or a part of what is left."""
        return min(most, self.left // SHARE)

    def require(self, needed: int, what: str) -> None:
        """Refuse work that does not fit, before it begins.

        Args:
            needed: bytes that it takes at least.
            what: the work, in words.

        Raises:
            QirError: less is left; the message says how much is needed.
        """
        if resident() + needed > self.total:
            give_back()
        taken = resident()
        if taken + needed > self.total:
            raise QirError(
                f"{what} takes about {size_text(needed)}, and the process {size_text(taken)} already: the memory "
                f"budget of {size_text(self.total)} does not hold them; give at least {size_text(taken + needed)} "
                "(memory=, --memory), or smaller samples"
            )


_BUDGET: ContextVar[MemoryBudget | None] = ContextVar("memory", default=None)


def memory_budget() -> MemoryBudget:
    """Return the budget in force."""
    return _BUDGET.get() or MemoryBudget.of_free()


@contextmanager
def budgeted(memory: int | str | MemoryBudget | None) -> Iterator[None]:
    """Inside, this budget is in force: bytes, or text such as `2GB`; None keeps the one in force.

    Raises:
        QirError: as `MemoryBudget.parse`.
    """
    if memory is None:
        memory = memory_budget()
    token = _BUDGET.set(memory if isinstance(memory, MemoryBudget) else MemoryBudget.parse(memory))
    try:
        yield
    finally:
        _BUDGET.reset(token)


def size_text(count: int) -> str:
    """Return bytes in words."""
    return f"{count / 2**30:,.1f} GiB" if count >= 1 << 30 else f"{-(-count >> 20):,} MiB"


def resident() -> int:
    """Return bytes that the process holds now; where the system does not tell, the most it ever held, or 0."""
    try:
        return int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, ValueError, IndexError):
        return _most_ever()


def give_back() -> None:
    """Let the C library hand freed memory back to the system, where it knows how (malloc_trim of glibc)."""
    import ctypes

    try:
        ctypes.CDLL(None).malloc_trim(0)
    except (OSError, AttributeError, TypeError):
        return


def _most_ever() -> int:
    import sys

    try:
        import resource
    except ImportError:  # Windows
        return 0
    held = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return held if sys.platform == "darwin" else held << 10


def free() -> int:
    """Return bytes that nobody holds: of the machine, and of the control group that the process runs in."""
    return min((*_of_groups(), _of_machine()))


def _of_machine() -> int:
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
        return next(int(line.split()[1]) << 10 for line in lines if line.startswith("MemAvailable:"))
    except (OSError, ValueError, IndexError, StopIteration):
        pass
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2
    except (AttributeError, OSError, ValueError):
        return UNKNOWN


_GROUPS = (
    ("/sys/fs/cgroup", "", "memory.max", "memory.current", "inactive_file"),
    ("/sys/fs/cgroup/memory", "memory", "memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
)
"""Where control groups are mounted, their controller, the files of limit and usage, and the line of `memory.stat` that
counts cached files, which make room: versions 2 and 1 (Linux kernel documentation, admin-guide/cgroup-v2 and
cgroup-v1/memory)."""


_MEMBERSHIP = Path("/proc/self/cgroup")
"""Lists the control groups that the process is in."""


def _of_groups() -> Iterator[int]:
    """Yield what is left under the limit of every control group that the process is in."""
    try:
        lines = _MEMBERSHIP.read_text(encoding="utf-8").splitlines()
    except OSError:
        return
    places = {name: path for _, names, path in (line.split(":", 2) for line in lines) for name in names.split(",")}
    for root, controller, limit, usage, cached in _GROUPS:
        path = Path(root, places.get(controller, "").lstrip("/"))
        for folder in (path, *path.parents):
            if folder == Path(root).parent:
                break
            try:
                held = int((folder / usage).read_text(encoding="ascii")) - _counted(folder / "memory.stat", cached)
                yield max(int((folder / limit).read_text(encoding="ascii")) - held, 0)
            except (OSError, ValueError):  # no such group, or no limit ("max")
                continue


def _counted(path: Path, name: str) -> int:
    """Return the number of a line `name number`; 0 where there is none."""
    lines = map(str.split, path.read_text(encoding="ascii").splitlines())
    return next((int(line[1]) for line in lines if len(line) == 2 and line[0] == name), 0)
