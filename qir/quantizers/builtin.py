"""The schemes that come with qir."""

from __future__ import annotations

from qir.quantizers.binary import Binary
from qir.quantizers.registry import register
from qir.quantizers.uniform import Uniform, UniformAsymmetric


def register_all() -> None:
    """Register every scheme of this package."""
    for scheme in (Uniform(), UniformAsymmetric(), Binary()):
        register(scheme)
