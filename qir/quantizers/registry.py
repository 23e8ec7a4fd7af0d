"""Schemes by name; one of another package is an entry point of the group `qir.schemes`."""

from __future__ import annotations

from typing import Any

from qir.errors import QirError
from qir.quantizers.scheme import Scheme
from qir.registry import Registry


def _is_whole(found: Any) -> bool:
    return isinstance(found, Scheme) and all(hasattr(found, name) for name in ("name", "widths", "storage"))


SCHEMES: Registry[Scheme] = Registry(
    "scheme",
    "qir.schemes",
    {},
    accepts=_is_whole,
    expected="a scheme: an instance of a qir.quantizers.Scheme that says name, widths and storage",
)


def register(scheme: Scheme) -> Scheme:
    """Make a scheme known under its name; a class that was defined anew, as in a notebook, replaces its old self.

    Args:
        scheme: an instance; its class says name, widths and storage.

    Returns:
        The same scheme.

    Raises:
        QirError: this is not a scheme, or another one has the name.
    """
    SCHEMES.add(getattr(scheme, "name", ""), scheme)
    return scheme


def get_scheme(name: str) -> Scheme:
    """Look a scheme up.

    Raises:
        QirError: no scheme has this name; the message holds the nearest one.
    """
    found = SCHEMES[name]
    if found.name != name:
        raise QirError(f"scheme {name!r}: its entry point hands out a scheme that calls itself {found.name!r}")
    return found


def scheme_names() -> list[str]:
    """Return names of all schemes, sorted."""
    return sorted(SCHEMES)
