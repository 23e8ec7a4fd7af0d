"""The most memory that this process has had; the one place that asks the operating system."""

from __future__ import annotations

import sys


def peak_memory() -> int | None:
    """Bytes, None where the system does not tell (Windows)."""
    try:
        import resource
    except ImportError:
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
