"""Ops that copy elements and compute nothing: shapes, slices, joins, padding."""

from __future__ import annotations

from qir.ops.definition import OpDef, first
from qir.ops.example import booleans, example, given, integers, normal
from qir.ops.grid_flow import concatenated, padded, transposed

OPS = (
    OpDef(
        "Identity", keeps=first, is_movement=True, is_view=True, is_elementwise=True, examples=(example(normal(2, 3)),)
    ),
    OpDef(
        "Reshape",
        keeps=first,
        is_movement=True,
        is_view=True,
        rank_from=1,
        examples=(
            example(normal(2, 3, 4), given([0, -1])),
            example(normal(0, 3), given([3, 0]), allowzero=1, label="allowzero"),
        ),
    ),
    OpDef(
        "Transpose",
        keeps=first,
        flow=transposed,
        is_movement=True,
        examples=(example(normal(2, 3, 4), perm=(2, 0, 1)), example(normal(2, 3, 4), label="reversed")),
    ),
    OpDef(
        "Flatten",
        keeps=first,
        is_movement=True,
        is_view=True,
        examples=(
            example(normal(2, 3, 4)),
            example(normal(2, 3, 4), axis=0, label="axis-0"),
            example(normal(2, 3, 4), axis=-1, label="negative"),
        ),
    ),
    OpDef(
        "Squeeze",
        keeps=first,
        is_movement=True,
        is_view=True,
        examples=(
            example(normal(2, 1, 3, 1), given([1, -1])),
            example(normal(2, 1, 3, 1), label="all"),
            example(normal(2, 1, 3), axes=(1,), opset=11, label="opset-11"),
        ),
    ),
    OpDef(
        "Unsqueeze",
        keeps=first,
        is_movement=True,
        is_view=True,
        examples=(
            example(normal(2, 3), given([0, -1])),
            example(normal(2, 3), axes=(0, 3), opset=11, label="opset-11"),
        ),
    ),
    OpDef(
        "Slice",
        keeps=first,
        is_movement=True,
        examples=(
            example(normal(4, 5, 6), given([1, -1]), given([9, -6]), given([1, 2]), given([2, -2])),
            example(normal(4, 5), given([1]), given([-1]), label="no-axes"),
            example(
                normal(4, 5), given([-9223372036854775808]), given([9223372036854775807]), given([-1]), label="extremes"
            ),
            example(normal(4, 5), given([3]), given([1]), given([0]), label="empty"),
            example(normal(4, 5), starts=(1,), ends=(3,), axes=(0,), opset=9, label="opset-9"),
        ),
    ),
    OpDef(
        "Split",
        is_movement=True,
        examples=(
            example(normal(6, 2), given([1, 2, 3]), results=3),
            example(normal(7, 2), num_outputs=3, results=3, label="uneven"),
            example(normal(4, 6), axis=1, split=(2, 4), results=2, opset=11, label="opset-11"),
        ),
    ),
    OpDef(
        "Concat",
        flow=concatenated,
        is_join=True,
        is_movement=True,
        examples=(example(normal(2, 3), normal(2, 1), normal(2, 2), axis=-1),),
    ),
    OpDef(
        "Pad",
        flow=padded,
        is_movement=True,
        is_enlarging=True,
        examples=(
            example(normal(2, 3, 4), given([0, 1, 2, 0, 0, 1]), given(0.5, "float32")),
            example(normal(2, 3, 4), given([0, 1, 2, 0, 2, 1]), mode="reflect", label="reflect"),
            example(normal(2, 3, 4), given([1, 0, 2, 0, 0, 1]), mode="edge", label="edge"),
            example(normal(2, 3, 4), given([1, -1, 2, 0, 0, -1]), label="negative"),
            example(normal(2, 3, 4), given([1, 2]), given(1.0, "float32"), given([-1]), label="axes"),
            example(normal(2, 3), pads=(1, 0, 0, 2), value=2.0, opset=10, label="opset-10"),
            example(normal(2, 3, 4), given([0, 0, 2, 0, 0, 5]), mode="wrap", label="wrap"),
        ),
    ),
    OpDef(
        "Expand",
        keeps=first,
        is_movement=True,
        is_enlarging=True,
        examples=(example(normal(2, 1, 3), given([4, 1, 5, 1])),),
    ),
    OpDef("Tile", keeps=first, is_movement=True, is_enlarging=True, examples=(example(normal(2, 3), given([2, 3])),)),
    OpDef(
        "DepthToSpace",
        keeps=first,
        is_movement=True,
        examples=(
            example(normal(1, 8, 2, 3), blocksize=2),
            example(normal(1, 8, 2, 3), blocksize=2, mode="CRD", label="CRD"),
        ),
    ),
    OpDef("SpaceToDepth", keeps=first, is_movement=True, examples=(example(normal(1, 2, 4, 6), blocksize=2),)),
    OpDef(
        "Dropout",
        keeps=first,
        is_movement=True,
        is_elementwise=True,
        examples=(example(normal(2, 3)), example(normal(2, 3), results=2, label="mask")),
    ),
    OpDef(
        "Shape",
        is_movement=True,
        examples=(example(normal(2, 3, 4)), example(normal(2, 3, 4), start=1, end=-1, label="part")),
    ),
    OpDef("Size", is_movement=True, examples=(example(normal(2, 3, 4)),)),
    OpDef(
        "Constant", is_movement=True, examples=(example(value_floats=(1.0, 2.5)), example(value_int=3, label="scalar"))
    ),
    OpDef("ConstantOfShape", is_movement=True, is_enlarging=True, examples=(example(given([2, 3])),)),
    OpDef(
        "Range",
        is_enlarging=True,
        examples=(
            example(given(2), given(9), given(3)),
            example(given(2.0, "float32"), given(-1.0, "float32"), given(-0.5, "float32"), label="falling"),
        ),
    ),
    OpDef(
        "Trilu",
        is_movement=True,
        examples=(example(normal(3, 4)), example(normal(2, 4, 4), given(1), upper=0, label="lower")),
    ),
    OpDef("EyeLike", is_movement=True, is_enlarging=True, examples=(example(normal(3, 4), k=1, dtype=1),)),
    OpDef(
        "OneHot",
        is_movement=True,
        is_enlarging=True,
        examples=(example(integers(-3, 3, 2, 3), given(4), given([0.5, 2.0], "float32"), axis=1),),
    ),
    OpDef("Where", is_movement=True, is_elementwise=True, examples=(example(booleans(2, 3), normal(2, 1), normal(3)),)),
    OpDef(
        "ReverseSequence",
        is_movement=True,
        examples=(example(normal(4, 3, 2), given([4, 2, 1]), batch_axis=1, time_axis=0),),
    ),
)
