"""From a network to a TensorFlow Lite file."""

from __future__ import annotations

from qir.backends.vela import operators as operators  # enters the lowerings of ops
from qir.backends.vela.network import Network
from qir.module import Module


def tflite_bytes(module: Module) -> bytes:
    """The int8 form of a network, batch 1, as a TensorFlow Lite file.

    Weights take the codes of their quantizers at the chosen widths (else 8 bits per channel); activations are stored in
    8 bits over the calibrated ranges; where a range is not known a fixed one is taken.

    Args:
        module: constants and BatchNormalization folded; shapes known.

    Raises:
        TargetError: an op has no TensorFlow Lite form here, or a shape is unknown.
        MissingExtraError: the package `flatbuffers` is not installed.
    """
    return Network(module).made.to_bytes()
