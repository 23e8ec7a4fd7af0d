"""Which optional packages are there."""

from __future__ import annotations

from importlib.util import find_spec

from qir.errors import MissingExtraError


def is_installed(package: str) -> bool:
    """Return whether a package can be imported; nothing is imported."""
    try:
        return find_spec(package) is not None
    except (ImportError, ValueError):  # a finder refuses it, or `sys.modules` holds None
        return False


def require_torch(what: str = "this", instead: str = "") -> None:
    """Raise unless torch can be imported.

    Args:
        what: what needs it, the subject of the message.
        instead: what can be done without it.

    Raises:
        MissingExtraError: torch is not installed; the message holds the line that installs it for the CPU.
    """
    if not is_installed("torch"):
        raise MissingExtraError("torch", "torch", what=what, instead=instead)
