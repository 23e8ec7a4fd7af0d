"""Torch schemes by name."""

from __future__ import annotations

from qir.backends.torch.quantizers.dorefa import TorchDoReFa
from qir.backends.torch.quantizers.learned import TorchLsq, TorchPact
from qir.backends.torch.quantizers.scheme import TorchScheme
from qir.quantizers import get_scheme

_CLASSES: dict[str, type[TorchScheme]] = {
    "lsq": TorchLsq,
    "pact": TorchPact,
    "dorefa": TorchDoReFa,
}


def register_torch(name: str, twin: type[TorchScheme]) -> None:
    """Give a scheme a torch twin of its own, where the generic straight-through one does not do.

    Args:
        name: name of a registered scheme.
        twin: the class.

    Raises:
        QirError: no scheme has this name.
    """
    get_scheme(name)
    _CLASSES[name] = twin


def get_torch_scheme(name: str) -> TorchScheme:
    """Look up the torch twin of a scheme; every registered numpy scheme has one.

    Raises:
        QirError: no scheme has this name; the message holds the nearest one.
    """
    scheme = get_scheme(name)
    return _CLASSES.get(name, TorchScheme)(scheme)
