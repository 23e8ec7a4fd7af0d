"""Normalizations."""

from __future__ import annotations

from qir.ops.definition import OpDef
from qir.ops.example import example, normal, uniform

OPS = (
    OpDef(
        "BatchNormalization",
        trained=(1, 2),
        examples=(
            example(normal(2, 3, 4, 5), normal(3), normal(3), normal(3), uniform(0.5, 2, 3), epsilon=1e-3),
            example(normal(2, 3), normal(3), normal(3), normal(3), uniform(0.5, 2, 3), opset=9, label="opset-9"),
        ),
    ),
    OpDef("InstanceNormalization", trained=(1, 2), examples=(example(normal(2, 3, 4, 5), normal(3), normal(3)),)),
    OpDef(
        "LayerNormalization",
        trained=(1, 2),
        examples=(
            example(normal(2, 3, 4), normal(4), normal(4)),
            example(normal(2, 3, 4), normal(3, 4), axis=1, label="two-axes"),
            example(normal(2, 3, 4), normal(4), results=3, label="statistics"),
        ),
    ),
    OpDef(
        "GroupNormalization",
        trained=(1, 2),
        since_version=21,
        examples=(example(normal(2, 6, 4, 5), normal(6), normal(6), num_groups=3),),
    ),
    OpDef(
        "RMSNormalization", trained=(1, 2), since_version=23, examples=(example(normal(2, 3, 4), normal(4), opset=23),)
    ),
    OpDef("LRN", examples=(example(normal(2, 6, 4, 5), size=3, alpha=0.01, beta=0.6, bias=1.5),)),
    OpDef(
        "LpNormalization",
        examples=(example(normal(3, 4), axis=1, p=2), example(normal(3, 4), axis=0, p=1, label="p-1")),
    ),
    OpDef("MeanVarianceNormalization", examples=(example(normal(2, 3, 4, 5)),)),
)
