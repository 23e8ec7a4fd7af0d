"""Pooling and resampling."""

from __future__ import annotations

from qir.graph import Node
from qir.ops.definition import OpDef, first
from qir.ops.example import example, given, normal


def _nearest(node: Node) -> int | None:
    """Return the operand that every pixel is from; None where pixels outside the image get a value of their own."""
    outside = node.attribute("coordinate_transformation_mode") == "tf_crop_and_resize"
    return 0 if node.attribute("mode", "nearest") == "nearest" and not outside else None


OPS = (
    OpDef(
        "MaxPool",
        keeps=first,
        examples=(
            example(normal(2, 3, 8, 7), kernel_shape=(3, 3), strides=(2, 2), pads=(1, 1, 1, 1)),
            example(normal(2, 3, 8, 7), kernel_shape=(3, 2), strides=(2, 2), ceil_mode=1, label="ceil"),
            example(normal(2, 3, 8, 7), kernel_shape=(2, 2), dilations=(2, 2), auto_pad="NOTSET", label="dilated"),
            example(normal(2, 3, 8, 7), kernel_shape=(3, 2), strides=(2, 2), auto_pad="SAME_UPPER", label="same-upper"),
            example(normal(2, 3, 8, 7), kernel_shape=(3, 3), pads=(0, 2, 1, 0), label="uneven"),
            example(normal(2, 3, 9), kernel_shape=(3,), label="1-D"),
            example(normal(1, 2, 4, 5, 6), kernel_shape=(2, 2, 2), label="3-D"),
            example(normal(2, 3, 4, 6), kernel_shape=(2, 2), strides=(2, 2), results=2, label="indices"),
        ),
    ),
    OpDef(
        "AveragePool",
        is_average=True,
        examples=(
            example(normal(2, 3, 8, 7), kernel_shape=(3, 3), strides=(2, 2), pads=(1, 1, 1, 1)),
            example(
                normal(2, 3, 8, 7),
                kernel_shape=(3, 3),
                strides=(2, 2),
                pads=(1, 1, 1, 1),
                count_include_pad=1,
                label="include-pad",
            ),
            example(normal(2, 3, 8, 7), kernel_shape=(3, 2), strides=(2, 2), ceil_mode=1, label="ceil"),
            example(normal(2, 3, 8, 7), kernel_shape=(3, 3), pads=(0, 2, 1, 0), label="uneven"),
            example(normal(2, 3, 8, 7), kernel_shape=(3, 2), strides=(2, 2), auto_pad="SAME_UPPER", label="same-upper"),
            example(normal(2, 3, 9), kernel_shape=(3,), label="1-D"),
            example(normal(1, 2, 4, 5, 6), kernel_shape=(2, 2, 2), label="3-D"),
        ),
    ),
    OpDef("GlobalAveragePool", is_average=True, examples=(example(normal(2, 3, 4, 5)),)),
    OpDef("GlobalMaxPool", keeps=first, examples=(example(normal(2, 3, 4, 5)),)),
    OpDef(
        "LpPool",
        examples=(example(normal(2, 3, 8, 7), kernel_shape=(3, 3), strides=(2, 2), p=2),),
    ),
    OpDef("GlobalLpPool", examples=(example(normal(2, 3, 4, 5), p=2),)),
    OpDef(
        "Resize",
        since_version=10,
        keeps=_nearest,
        is_enlarging=True,
        examples=(example(normal(1, 2, 3, 4), given([1, 1, 2, 2], "float32"), mode="nearest", opset=10),),
    ),
    OpDef(
        "Resize",
        since_version=11,
        keeps=_nearest,
        is_enlarging=True,
        examples=(
            example(
                normal(1, 2, 3, 4),
                None,
                given([1, 1, 2, 2], "float32"),
                mode="nearest",
                coordinate_transformation_mode="asymmetric",
                nearest_mode="floor",
            ),
            example(normal(1, 2, 3, 4), None, given([1, 1, 2, 1.5], "float32"), mode="nearest", label="half-pixel"),
            example(normal(1, 2, 3, 4), None, given([1, 1, 2, 2], "float32"), mode="linear", label="linear"),
            example(
                normal(1, 2, 3, 4),
                None,
                None,
                given([1, 2, 5, 7]),
                mode="linear",
                coordinate_transformation_mode="align_corners",
                label="corners",
            ),
            example(
                normal(1, 2, 6, 8),
                None,
                None,
                given([1, 2, 4, 3]),
                mode="linear",
                coordinate_transformation_mode="pytorch_half_pixel",
                label="smaller",
            ),
            example(
                normal(1, 2, 5, 6),
                None,
                given([1, 1, 2, 2], "float32"),
                mode="cubic",
                cubic_coeff_a=-0.75,
                label="cubic",
            ),
        ),
    ),
    OpDef(
        "Upsample",
        keeps=_nearest,
        is_enlarging=True,
        examples=(example(normal(1, 2, 3, 4), given([1, 1, 2, 3], "float32"), mode="nearest", opset=9),),
    ),
    OpDef(
        "GridSample",
        examples=(example(normal(1, 2, 4, 5), normal(1, 3, 3, 2), opset=20),),
    ),
)
