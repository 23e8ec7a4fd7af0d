"""Ops that pick elements by index, and ops that find indices."""

from __future__ import annotations

from qir.graph import Node
from qir.ops.definition import FloatKernel, OpDef, first, tensor_of
from qir.ops.example import booleans, example, given, integers, normal


def _embedding(node: Node) -> FloatKernel | None:
    """Return rows of a matrix of real numbers, picked by computed indices; they stay on the matrix's one grid."""
    table = tensor_of(node.input(0))
    indices = node.input(1)
    if table is None or table.rank != 2 or not table.dtype.is_float or node.attribute("axis", 0) != 0:
        return None
    return None if indices is None or indices.is_constant else FloatKernel({0: ("weight", None)}, {}, ())


def _picked(node: Node) -> int | None:
    """Whole tensors keep their grid; where rows or blocks have grids of their own, what is picked lies on many."""
    source = node.input(0)
    quantizer = None if source is None else source.producer
    own = quantizer is not None and quantizer.is_fake_quant and quantizer.attribute("axis") is not None
    return None if own else 0


OPS = (
    OpDef(
        "Gather",
        kernel=_embedding,
        trained=(0,),
        keeps=_picked,
        is_movement=True,
        examples=(
            example(normal(4, 5), integers(-4, 4, 2, 3)),
            example(normal(4, 5), given(1), axis=1, label="scalar"),
            example(normal(4), given(1), label="element"),
        ),
    ),
    OpDef("GatherElements", keeps=first, is_movement=True, examples=(example(normal(3, 4), integers(-3, 3, 2, 4)),)),
    OpDef(
        "GatherND",
        keeps=first,
        is_movement=True,
        examples=(
            example(normal(3, 4, 2), integers(-3, 3, 5, 2)),
            example(normal(2, 3, 4), integers(0, 3, 2, 1), batch_dims=1, label="batched"),
        ),
    ),
    OpDef(
        "ScatterElements",
        is_movement=True,
        examples=(
            example(normal(3, 4), given([[0, 2, 1, -1]]), normal(1, 4)),
            example(normal(3, 4), given([[0, 2], [0, 1]]), normal(2, 2), axis=1, reduction="add", label="add"),
        ),
    ),
    OpDef(
        "ScatterND",
        is_movement=True,
        examples=(
            example(normal(4, 3), given([[2], [0]]), normal(2, 3)),
            example(normal(4, 3), given([[2], [2]]), normal(2, 3), reduction="add", label="add"),
        ),
    ),
    OpDef("Compress", is_movement=True, examples=(example(normal(3, 4), given([1, 0, 1], "bool"), axis=0),)),
    OpDef("NonZero", examples=(example(booleans(3, 4)),)),
    OpDef(
        "ArgMax",
        examples=(
            example(normal(3, 4), axis=-1),
            example(normal(3, 4), axis=0, keepdims=0, label="no-keepdims"),
            example(given([[1.0, 3.0, 3.0]], "float32"), axis=1, select_last_index=1, label="last"),
        ),
    ),
    OpDef("ArgMin", examples=(example(normal(3, 4), axis=1),)),
    OpDef(
        "TopK",
        examples=(
            example(normal(3, 5), given([2]), results=2),
            example(normal(3, 5), given([3]), axis=0, largest=0, results=2, label="smallest"),
        ),
    ),
    OpDef(
        "CumSum",
        examples=(
            example(normal(3, 4), given(1)),
            example(normal(3, 4), given(0), exclusive=1, reverse=1, label="reverse"),
        ),
    ),
)
