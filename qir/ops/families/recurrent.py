"""Recurrent layers."""

from __future__ import annotations

from qir.graph import Node
from qir.ops.definition import FloatKernel, OpDef, sizes_of
from qir.ops.example import Example, example, given, normal
from qir.ops.layer_shape import LayerShape


def _shape(node: Node, batch: int | None) -> LayerShape | None:
    """Return the products with W and R as one.

    Shape [inputs + hidden] x [gates · hidden], a row per time step and sequence.
    """
    data, weight, recurrence = (sizes_of(node.input(i), batch if i == 0 else None) for i in range(3))
    if data is None or weight is None or recurrence is None:
        return None
    return LayerShape(weight[2] + recurrence[2], weight[1], data[0] * data[1], copies=weight[0])


def _kernel(node: Node) -> FloatKernel:
    """W meets the input, R the state: the first one where it is given, else what follows from the input."""
    names = {0: "input", 5: "state", 6: "cell"}
    data = {
        index: names[index] for index in names if node.input(index) is not None and (index != 6 or node.op == "LSTM")
    }
    return FloatKernel({1: ("weight", 1), 2: ("recurrence", 1)}, data, ((0, 1), (5 if 5 in data else 0, 2)))


def _examples(gates: int, cell: bool) -> tuple[Example, ...]:
    results = 3 if cell else 2
    return (
        example(
            normal(5, 2, 4),
            normal(1, gates * 3, 4),
            normal(1, gates * 3, 3),
            normal(1, 2 * gates * 3),
            hidden_size=3,
            results=results,
        ),
        example(
            normal(5, 2, 4),
            normal(2, gates * 3, 4),
            normal(2, gates * 3, 3),
            None,
            None,
            normal(2, 2, 3),
            hidden_size=3,
            direction="bidirectional",
            results=results,
            label="bidirectional",
        ),
        example(
            normal(5, 2, 4),
            normal(1, gates * 3, 4),
            normal(1, gates * 3, 3),
            hidden_size=3,
            direction="reverse",
            results=results,
            label="reverse",
        ),
        example(
            normal(5, 2, 4),
            normal(1, gates * 3, 4),
            normal(1, gates * 3, 3),
            None,
            given([5, 3], "int32"),
            hidden_size=3,
            results=results,
            label="lengths",
        ),
    )


OPS = (
    OpDef(
        "LSTM", kernel=_kernel, shape=_shape, is_expensive=True, trained=(1, 2, 3, 7), examples=_examples(4, cell=True)
    ),
    OpDef(
        "GRU",
        kernel=_kernel,
        shape=_shape,
        is_expensive=True,
        trained=(1, 2, 3, 7),
        examples=(
            *_examples(3, cell=False),
            example(
                normal(5, 2, 4),
                normal(1, 9, 4),
                normal(1, 9, 3),
                normal(1, 18),
                hidden_size=3,
                linear_before_reset=1,
                results=2,
                label="linear-before-reset",
            ),
        ),
    ),
    OpDef(
        "RNN", kernel=_kernel, shape=_shape, is_expensive=True, trained=(1, 2, 3, 7), examples=_examples(1, cell=False)
    ),
)
