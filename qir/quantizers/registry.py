"""Schemes by name."""

from __future__ import annotations

import difflib

from qir.errors import QirError
from qir.quantizers.scheme import Scheme

_SCHEMES: dict[str, Scheme] = {}


def register(scheme: Scheme) -> Scheme:
    """Make a scheme known under its name; a class that was defined anew, as in a notebook, replaces its old self.

    Args:
        scheme: an instance; its class says name, widths and storage.

    Returns:
        The same scheme.

    Raises:
        QirError: this is not a scheme, or another one has the name.
    """
    missing = [name for name in ("name", "widths", "storage") if not hasattr(scheme, name)]
    if missing or not isinstance(scheme, Scheme):
        raise QirError(
            f"register: {scheme!r} is not a scheme: expected an instance of a class that derives from "
            f"qir.quantizers.Scheme and says {', '.join(missing) or 'name, widths and storage'}"
        )
    known = _SCHEMES.get(scheme.name)
    if known is not None and _origin(known) != _origin(scheme):
        raise QirError(f"scheme {scheme.name!r}: the name is taken by {type(known).__name__}; choose another name")
    _SCHEMES[scheme.name] = scheme
    return scheme


def _origin(scheme: Scheme) -> tuple[str, str]:
    return type(scheme).__module__, type(scheme).__qualname__


def get_scheme(name: str) -> Scheme:
    """Look a scheme up.

    Raises:
        QirError: no scheme has this name; the message holds the nearest one.
    """
    if name in _SCHEMES:
        return _SCHEMES[name]
    near = difflib.get_close_matches(name, _SCHEMES, n=1, cutoff=0.0)
    raise QirError(f"scheme {name!r} is not known; did you mean {near[0]!r}? Known: {', '.join(scheme_names())}")


def scheme_names() -> list[str]:
    """Names of all registered schemes, sorted."""
    return sorted(_SCHEMES)
