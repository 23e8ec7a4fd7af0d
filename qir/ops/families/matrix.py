"""Convolutions and matrix products."""

from __future__ import annotations

from math import prod

from qir.graph import Node
from qir.ops.definition import OpDef, Operands, rank_of, sizes_of
from qir.ops.example import example, integers, normal
from qir.ops.layer_shape import LayerShape


def _conv_operands(node: Node) -> Operands:  # noqa: ARG001
    return Operands(0, 1, 2, 0)


def _conv_transpose_operands(node: Node) -> Operands:
    return Operands(0, 1, 2, 1 if node.attribute("group", 1) == 1 else None)


def _gemm_operands(node: Node) -> Operands | None:
    if node.attribute("transA", 0):
        return None
    return Operands(0, 1, 2, 0 if node.attribute("transB", 0) else 1)


def _matmul_operands(node: Node) -> Operands:
    rank = rank_of(node.input(1))
    return Operands(0, 1, None, None if rank is None or rank < 2 else rank - 1)


def same_pads(node: Node, spatial: tuple[int, ...], kernel: tuple[int, ...]) -> tuple[int, ...]:
    """Return padding of a sliding window, begins then ends, with `auto_pad` resolved (ONNX Conv)."""
    ones = (1,) * len(spatial)
    mode = node.attribute("auto_pad", "NOTSET")
    if mode in {"NOTSET", "VALID"}:
        none = (0,) * (2 * len(spatial))
        return tuple(node.attribute("pads", none)) if mode == "NOTSET" else none
    begins, ends = [], []
    strides, dilations = node.attribute("strides", ones), node.attribute("dilations", ones)
    for size, taps, stride, dilation in zip(spatial, kernel, strides, dilations, strict=True):
        total = max((-(-size // stride) - 1) * stride + (taps - 1) * dilation + 1 - size, 0)
        begins.append(total - total // 2 if mode == "SAME_LOWER" else total // 2)
        ends.append(total - begins[-1])
    return (*begins, *ends)


def _conv_shape(node: Node, batch: int | None) -> LayerShape | None:
    data, weight = sizes_of(node.input(0), batch), sizes_of(node.input(1))
    if data is None or weight is None or len(data) != len(weight) or len(data) < 3:
        return None
    spatial, kernel, ones = data[2:], weight[2:], (1,) * (len(data) - 2)
    stride, dilation = node.attribute("strides", ones), node.attribute("dilations", ones)
    pads = same_pads(node, spatial, kernel)
    output = tuple(
        (size + pads[i] + pads[i + len(spatial)] - dilation[i] * (kernel[i] - 1) - 1) // stride[i] + 1
        for i, size in enumerate(spatial)
    )
    return LayerShape(
        data[1], weight[0], data[0], spatial, output, kernel, stride, dilation, pads, node.attribute("group", 1)
    )


def _conv_transpose_shape(node: Node, batch: int | None) -> LayerShape | None:
    data, weight = sizes_of(node.input(0), batch), sizes_of(node.input(1))
    if data is None or weight is None or len(data) != len(weight) or len(data) < 3:
        return None
    spatial, kernel, ones = data[2:], weight[2:], (1,) * (len(data) - 2)
    stride, dilation = node.attribute("strides", ones), node.attribute("dilations", ones)
    groups = node.attribute("group", 1)
    full = tuple(stride[i] * (size - 1) + (kernel[i] - 1) * dilation[i] + 1 for i, size in enumerate(spatial))
    pads, output = conv_transpose_pads(node, spatial, full)
    return LayerShape(
        weight[0], weight[1] * groups, data[0], spatial, output, kernel, stride, dilation, pads, groups, transposed=True
    )


def conv_transpose_pads(
    node: Node, spatial: tuple[int, ...], full: tuple[int, ...]
) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Return padding (begins then ends) and output sizes of ConvTranspose.

    Args:
        node: the node.
        spatial: spatial sizes of the input.
        full: output sizes without padding and without `output_padding`.
    """
    zeros, ones = (0,) * len(spatial), (1,) * len(spatial)
    extra = node.attribute("output_padding", zeros)
    wanted = node.attribute("output_shape")
    mode = node.attribute("auto_pad", "NOTSET")
    if wanted is None and mode in {"SAME_UPPER", "SAME_LOWER"}:
        wanted = tuple(size * stride for size, stride in zip(spatial, node.attribute("strides", ones), strict=True))
    if wanted is None:
        pads = node.attribute("pads", zeros * 2) if mode == "NOTSET" else zeros * 2
        return tuple(pads), tuple(
            f + e - pads[i] - pads[i + len(full)] for i, (f, e) in enumerate(zip(full, extra, strict=True))
        )
    wanted = tuple(wanted[-len(spatial) :])
    totals = [max(f + e - w, 0) for f, e, w in zip(full, extra, wanted, strict=True)]
    begins = [t // 2 if mode == "SAME_UPPER" else t - t // 2 for t in totals]
    return (*begins, *(t - b for t, b in zip(totals, begins, strict=True))), wanted


def _gemm_shape(node: Node, batch: int | None) -> LayerShape | None:
    turned = bool(node.attribute("transA", 0))
    a, b = sizes_of(node.input(0), None if turned else batch), sizes_of(node.input(1))
    if a is None or b is None or len(a) != 2 or len(b) != 2:
        return None
    rows, inner = reversed(a) if turned else a
    return LayerShape(inner, b[0] if node.attribute("transB", 0) else b[1], rows)


def _matmul_shape(node: Node, batch: int | None) -> LayerShape | None:
    second = node.input(1)
    a, b = sizes_of(node.input(0), batch), sizes_of(second, None if second is None or second.is_constant else batch)
    if a is None or b is None or not a or not b:
        return None
    rows = (1, *a) if len(a) == 1 else a
    columns = (*b, 1) if len(b) == 1 else b
    if len(columns) == 2:
        return LayerShape(rows[-1], columns[-1], prod(rows[:-1]))
    lead_a, lead_b = rows[:-2], columns[:-2]
    depth = max(len(lead_a), len(lead_b))
    pairs = zip((1,) * (depth - len(lead_a)) + lead_a, (1,) * (depth - len(lead_b)) + lead_b, strict=True)
    return LayerShape(rows[-1], columns[-1], rows[-2], copies=prod(max(pair) for pair in pairs))


OPS = (
    OpDef(
        "Conv",
        operands=_conv_operands,
        trained=(1, 2),
        shape=_conv_shape,
        is_expensive=True,
        examples=(
            example(normal(2, 3, 9, 8), normal(4, 3, 3, 3), normal(4), pads=(1, 1, 1, 1)),
            example(normal(2, 6, 9, 8), normal(6, 1, 3, 3), normal(6), group=6, strides=(2, 2), label="depthwise"),
            example(normal(2, 6, 9, 8), normal(4, 3, 3, 3), group=2, dilations=(2, 2), label="grouped"),
            example(normal(2, 3, 9, 8), normal(4, 3, 3, 2), auto_pad="SAME_UPPER", strides=(2, 2), label="same-upper"),
            example(normal(2, 3, 9, 8), normal(4, 3, 2, 4), auto_pad="SAME_LOWER", label="same-lower"),
            example(normal(2, 3, 9, 8), normal(4, 3, 3, 3), pads=(0, 1, 2, 0), label="uneven"),
            example(normal(2, 3, 11), normal(4, 3, 3), normal(4), pads=(2, 0), label="1-D"),
            example(normal(1, 2, 5, 6, 7), normal(3, 2, 2, 3, 2), normal(3), pads=(1, 0, 1, 1, 0, 1), label="3-D"),
        ),
    ),
    OpDef(
        "ConvTranspose",
        operands=_conv_transpose_operands,
        trained=(1, 2),
        shape=_conv_transpose_shape,
        is_expensive=True,
        examples=(
            example(
                normal(2, 3, 5, 4),
                normal(3, 4, 3, 3),
                normal(4),
                strides=(2, 2),
                pads=(1, 1, 1, 1),
                output_padding=(1, 1),
            ),
            example(normal(2, 4, 5, 4), normal(4, 3, 3, 3), group=2, dilations=(2, 1), label="grouped"),
            example(normal(2, 3, 5, 4), normal(3, 4, 3, 3), pads=(0, 1, 2, 0), strides=(2, 1), label="uneven"),
            example(normal(2, 3, 5, 4), normal(3, 4, 3, 3), strides=(2, 2), auto_pad="SAME_UPPER", label="same-upper"),
            example(normal(2, 3, 5, 4), normal(3, 4, 3, 3), strides=(2, 2), output_shape=(10, 9), label="output-shape"),
            example(normal(2, 3, 7), normal(3, 4, 4), normal(4), strides=(3,), label="1-D"),
        ),
    ),
    OpDef(
        "Gemm",
        operands=_gemm_operands,
        trained=(1, 2),
        shape=_gemm_shape,
        is_expensive=True,
        examples=(
            example(normal(5, 7), normal(7, 4), normal(4)),
            example(normal(5, 7), normal(4, 7), normal(5, 1), transB=1, alpha=0.5, beta=2.0, label="alpha-beta"),
            example(normal(7, 5), normal(7, 4), transA=1, label="transA"),
        ),
    ),
    OpDef(
        "MatMul",
        operands=_matmul_operands,
        trained=(0, 1),
        shape=_matmul_shape,
        is_expensive=True,
        examples=(
            example(normal(2, 5, 7), normal(7, 4)),
            example(normal(3, 2, 5, 7), normal(2, 7, 4), label="batched"),
            example(normal(7), normal(2, 7, 4), label="vector"),
        ),
    ),
    OpDef(
        "Einsum",
        is_known=False,
        examples=(
            example(normal(2, 3, 4), normal(2, 4, 5), equation="bij,bjk->bik"),
            example(normal(2, 3, 4), normal(5, 4), equation="...i, ji -> ...j", label="ellipsis"),
        ),
    ),
    OpDef(
        "MatMulInteger",
        since_version=10,
        shape=_matmul_shape,
        is_expensive=True,
        examples=(
            example(
                integers(0, 256, 5, 7, dtype="uint8"),
                integers(-128, 128, 7, 4, dtype="int8"),
                integers(3, 4, dtype="uint8"),
            ),
        ),
    ),
    OpDef(
        "ConvInteger",
        since_version=10,
        shape=_conv_shape,
        is_expensive=True,
        examples=(
            example(
                integers(0, 256, 1, 2, 6, 6, dtype="uint8"),
                integers(0, 256, 3, 2, 3, 3, dtype="uint8"),
                integers(3, 4, dtype="uint8"),
            ),
        ),
    ),
)
