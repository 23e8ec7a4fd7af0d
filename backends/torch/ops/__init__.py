"""Torch lowerings, keyed like the op registry: (domain, op, since_version)."""

from qir.backends.torch.ops import (
    activations,
    elementwise,
    indexing,
    matrix,
    movement,
    normalization,
    pooling,
    quantization,
    recurrent,
    reductions,
    resampling,
)
from qir.backends.torch.ops.base import LOWERINGS, Lowering, Operands, Result, has_lowering, lowering_of, lowers

__all__ = [
    "LOWERINGS",
    "Lowering",
    "Operands",
    "Result",
    "activations",
    "elementwise",
    "has_lowering",
    "indexing",
    "lowering_of",
    "lowers",
    "matrix",
    "movement",
    "normalization",
    "pooling",
    "quantization",
    "recurrent",
    "reductions",
    "resampling",
]
