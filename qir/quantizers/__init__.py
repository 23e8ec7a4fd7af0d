"""Quantizing schemes in numpy: one exact definition each.

A scheme turns (range, bits) into codes, scales and levels. It is the only place that knows how: the torch simulation,
the integer reference and the exporters all start from its `QuantParameters`. A scheme of your own is a frozen
dataclass that derives from `Scheme`, and one call of `register`.
"""

from qir.quantizers import builtin
from qir.quantizers.channels import fake_quantize_channels, parameters_by_width, quantize_channels, scheme_for
from qir.quantizers.parameters import QuantParameters, Storage
from qir.quantizers.registry import get_scheme, register, scheme_names
from qir.quantizers.scheme import Scheme

builtin.register_all()

__all__ = [
    "QuantParameters",
    "Scheme",
    "Storage",
    "fake_quantize_channels",
    "get_scheme",
    "parameters_by_width",
    "quantize_channels",
    "register",
    "scheme_for",
    "scheme_names",
]
