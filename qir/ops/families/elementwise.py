"""Arithmetic, comparison and logic, element by element with broadcasting."""

from __future__ import annotations

from qir.ops.definition import OpDef, ops
from qir.ops.example import Example, booleans, example, given, integers, normal, uniform

_UNARY = "Abs Neg Exp Ceil Floor Round Sign Sin Cos Tan Sinh Cosh Asinh Atan"
_POSITIVE = "Sqrt Log Reciprocal"
_BOUNDED = "Asin Acos Atanh"
_COMPARISONS = "Equal Greater GreaterOrEqual Less LessOrEqual"
_LOGIC = "And Or Xor"
_VARIADIC = "Max Min Mean Sum"


def _pair(name: str) -> tuple[Example, ...]:
    divisor = uniform(0.5, 2, 3, 1) if name == "Div" else normal(3, 1)
    return (
        example(normal(2, 3, 4), divisor),
        example(integers(-9, 9, 2, 3), integers(1, 9, 3), label="integers"),
    )


OPS = (
    OpDef("Add", trained=(0, 1), is_elementwise=True, is_join=True, examples=_pair("Add")),
    *ops(
        "Sub Mul Div",
        trained=(0, 1),
        is_elementwise=True,
        examples={name: _pair(name) for name in ("Sub", "Mul", "Div")},
    ),
    *ops(
        _VARIADIC,
        is_elementwise=True,
        examples={
            n: (example(normal(2, 3), normal(3), normal(2, 1)), example(normal(2, 3), label="one"))
            for n in _VARIADIC.split()
        },
    ),
    *ops(_UNARY, is_elementwise=True, examples={n: (example(normal(3, 4)),) for n in _UNARY.split()}),
    *ops(_POSITIVE, is_elementwise=True, examples={n: (example(uniform(0.1, 4, 3, 4)),) for n in _POSITIVE.split()}),
    *ops(_BOUNDED, is_elementwise=True, examples={n: (example(uniform(-0.9, 0.9, 3, 4)),) for n in _BOUNDED.split()}),
    OpDef("Acosh", is_elementwise=True, examples=(example(uniform(1, 4, 3, 4)),)),
    *ops(
        _COMPARISONS,
        is_elementwise=True,
        examples={n: (example(integers(0, 3, 3, 4), integers(0, 3, 4)),) for n in _COMPARISONS.split()},
    ),
    *ops(_LOGIC, is_elementwise=True, examples={n: (example(booleans(3, 4), booleans(4)),) for n in _LOGIC.split()}),
    OpDef("Not", is_elementwise=True, examples=(example(booleans(3, 4)),)),
    OpDef("IsNaN", is_elementwise=True, examples=(example(given([1.0, float("nan"), float("inf")], "float32")),)),
    OpDef(
        "IsInf",
        is_elementwise=True,
        examples=(
            example(given([1.0, float("nan"), float("inf"), -float("inf")], "float32")),
            example(given([1.0, float("inf"), -float("inf")], "float32"), detect_negative=0, label="positive"),
        ),
    ),
    OpDef(
        "Pow",
        is_elementwise=True,
        examples=(example(uniform(0.1, 2, 3, 4), normal(4)), example(normal(3, 4), given(2), label="integer-exponent")),
    ),
    OpDef(
        "Mod",
        is_elementwise=True,
        examples=(
            example(integers(-9, 9, 3, 4), integers(1, 5, 4)),
            example(normal(3, 4), uniform(0.5, 2, 4), fmod=1, label="fmod"),
        ),
    ),
    OpDef(
        "Cast",
        is_elementwise=True,
        examples=(
            example(normal(3, 4), to=7),
            example(integers(-3, 3, 3, 4), to=1, label="to-float"),
            example(normal(3, 4), to=9, label="to-bool"),
        ),
    ),
    OpDef("CastLike", is_elementwise=True, examples=(example(normal(3, 4), integers(0, 2, 1)),)),
    OpDef(
        "BitShift",
        is_elementwise=True,
        examples=(
            example(integers(0, 256, 3, 4, dtype="uint8"), integers(0, 8, 4, dtype="uint8"), direction="RIGHT"),
            example(
                integers(0, 256, 3, 4, dtype="uint8"), integers(0, 8, 4, dtype="uint8"), direction="LEFT", label="left"
            ),
        ),
    ),
    *ops(
        "BitwiseAnd BitwiseOr BitwiseXor",
        is_elementwise=True,
        since_version=18,
        examples={
            n: (example(integers(0, 256, 3, 4, dtype="uint8"), integers(0, 256, 4, dtype="uint8")),)
            for n in ("BitwiseAnd", "BitwiseOr", "BitwiseXor")
        },
    ),
    OpDef(
        "BitwiseNot", is_elementwise=True, since_version=18, examples=(example(integers(0, 256, 3, 4, dtype="uint8")),)
    ),
)
