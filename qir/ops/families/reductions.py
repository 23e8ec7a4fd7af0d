"""Reductions over axes."""

from __future__ import annotations

from qir.ops.definition import ops
from qir.ops.example import Example, Operand, example, given, normal, uniform

_NAMES = "ReduceSum ReduceMax ReduceMin ReduceProd ReduceL1 ReduceL2 ReduceLogSumExp ReduceSumSquare"


def _examples(data: Operand) -> tuple[Example, ...]:
    return (
        example(data, given([1, -1]), opset=18),
        example(data, opset=18, keepdims=0, label="all"),
        example(data, axes=(1,), keepdims=0, opset=12, label="opset-12"),
        example(data, opset=18, noop_with_empty_axes=1, label="noop"),
    )


OPS = (
    *ops(_NAMES, examples={name: _examples(normal(2, 3, 4)) for name in _NAMES.split()}),
    *ops("ReduceLogSum", examples={"ReduceLogSum": _examples(uniform(0.1, 2, 2, 3, 4))}),
    *ops("ReduceMean", is_average=True, examples={"ReduceMean": _examples(normal(2, 3, 4))}),
)
