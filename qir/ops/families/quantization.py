"""Ops that turn real numbers into codes and back."""

from __future__ import annotations

from qir.graph import FAKE_QUANT, QIR_DOMAIN
from qir.ops.definition import OpDef
from qir.ops.example import example, given, integers, normal, uniform

OPS = (
    OpDef(FAKE_QUANT, QIR_DOMAIN, is_elementwise=True),
    OpDef(
        "QuantizeLinear",
        since_version=10,
        is_elementwise=True,
        is_quantize=True,
        examples=(
            example(normal(3, 4), given(0.02, "float32"), given(128, "uint8")),
            example(
                normal(3, 4), given([0.02, 0.1, 0.5], "float32"), given([0, 1, -2], "int8"), axis=0, label="per-axis"
            ),
            example(normal(3, 4), given(0.0001, "float32"), given(7, "int16"), label="int16"),
            example(normal(4, 6), uniform(0.01, 0.1, 2, 6), axis=0, block_size=2, label="blocked"),
        ),
    ),
    OpDef(
        "DequantizeLinear",
        since_version=10,
        is_elementwise=True,
        is_dequantize=True,
        examples=(
            example(integers(0, 256, 3, 4, dtype="uint8"), given(0.02, "float32"), given(128, "uint8")),
            example(
                integers(-128, 128, 3, 4, dtype="int8"),
                given([0.02, 0.1, 0.5], "float32"),
                given([0, 1, -2], "int8"),
                axis=0,
                label="per-axis",
            ),
            example(integers(-9999, 9999, 3, 4, dtype="int32"), given(0.001, "float32"), label="int32"),
            example(
                integers(0, 256, 4, 6, dtype="uint8"), uniform(0.1, 1, 2, 6), axis=0, block_size=2, label="blocked"
            ),
        ),
    ),
    OpDef(
        "DynamicQuantizeLinear",
        since_version=11,
        is_quantize=True,
        examples=(example(normal(3, 4), results=3),),
    ),
)
