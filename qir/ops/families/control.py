"""Control flow, randomness, sequences: ops without facts beyond their kind."""

from __future__ import annotations

from qir.ops.definition import ops

OPS = (
    *ops("If Loop Scan", has_subgraphs=True),
    *ops("RandomNormal RandomNormalLike RandomUniform RandomUniformLike Multinomial Bernoulli", is_random=True),
)
