"""Grids of attributes of every operator with an integer kernel: single nodes, as the reference is held against ONNX.

`python tests/backends/integer/operator_grids.py` prints how many cases each operator has.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import product
from typing import Any, Literal

import numpy as np

Kind = Literal["own", "other", "scalar scale", "int8", "uint8", "float", "row", "scalar", "column", "matrix"]
RANKS = (1, 2, 3)


@dataclass(frozen=True)
class Quantized:
    """An operand after a DequantizeLinear.

    Attributes:
        shape: of its codes.
        dtype: of its codes.
        axis: of its scales, None for one scale.
        low, high: bounds of its codes, high excluded.
    """

    shape: tuple[int, ...]
    dtype: str = "uint8"
    axis: int | None = None
    low: int | None = None
    high: int | None = None


@dataclass(frozen=True)
class Case:
    """A node between DequantizeLinear and QuantizeLinear.

    Attributes:
        op: operator.
        attributes: of the node.
        operands: quantized ones, constants as they stand, or None for an operand that is left out.
        bias: kind of the bias after the operands.
        opset: version of ONNX's operator set.
        oracle: what says what is right: ONNX's reference evaluator, or ONNX Runtime without optimizations where that
            evaluator is wrong or raises: auto_pad of Conv, groups, output_padding and output_shape of ConvTranspose,
            pooling with ceil_mode and auto_pad, VALID with dilations, MaxPool with SAME_LOWER or pads, Resize where an
            integer length or the precision of a scale matters, negative Pad, empty indices.
        floats: the node has no integer arithmetic and is computed on floats.
    """

    op: str
    attributes: dict[str, Any]
    operands: tuple[Quantized | np.ndarray | None, ...]
    bias: Kind | None = None
    opset: int = 21
    oracle: Literal["onnx", "ort"] = "onnx"
    floats: bool = False
    name: str = field(default="", compare=False)

    def __str__(self) -> str:
        return f"{self.op} {self.name}"


def _named(case: Case, *parts: object) -> Case:
    return Case(**{**case.__dict__, "name": " ".join(map(str, parts))})


def _per(rank: int, *values: int) -> list[int]:
    """One entry per spatial dimension, taken from `values` in turn."""
    return [values[i % len(values)] for i in range(rank)]


def _conv() -> Iterator[Case]:
    grid = product(RANKS, ("NOTSET", "VALID", "SAME_UPPER", "SAME_LOWER"), (1, 2, 3), (1, 2), (1, 2, 4))
    for number, (rank, auto, stride, dilation, group) in enumerate(grid):
        if auto.startswith("SAME") and dilation > 1:
            continue
        attributes = {
            "auto_pad": auto,
            "strides": _per(rank, stride, 1),
            "dilations": _per(rank, dilation, 1, 2) if dilation > 1 else _per(rank, 1),
            "group": group,
        }
        if auto == "NOTSET":
            attributes["pads"] = [*_per(rank, 1, 0, 2), *_per(rank, 2, 1, 0)]
        data = Quantized((2, 4, *_per(rank, 6, 7, 5)), ("uint8", "int8")[number % 2])
        weight = Quantized(
            (8, 4 // group, *_per(rank, 3, 2)), ("int8", "uint8")[number // 2 % 2], 0 if number % 3 else None
        )
        case = Case("Conv", attributes, (data, weight), oracle="onnx" if auto == "NOTSET" else "ort")
        yield _named(case, rank, auto, "stride", stride, "dilation", dilation, "group", group)


def _conv_transpose() -> Iterator[Case]:
    forms: dict[str, dict[str, Any]] = {
        "plain": {},
        "pads": {"pads": (1, 0, 1)},
        "uneven": {"pads": (0, 1, 1), "uneven": True},
        "output padding": {"output_padding": (1, 0, 1)},
        "VALID": {"auto_pad": "VALID"},
        "SAME_UPPER": {"auto_pad": "SAME_UPPER"},
        "SAME_LOWER": {"auto_pad": "SAME_LOWER"},
        "output shape": {"output_shape": (0, 1, 0)},
    }
    for number, (rank, form, stride, dilation, group) in enumerate(product(RANKS, forms, (1, 2), (1, 2), (1, 2))):
        given = forms[form]
        sizes, kernel, strides = _per(rank, 4, 3, 5), _per(rank, 3, 2), _per(rank, stride)
        attributes: dict[str, Any] = {"strides": strides, "dilations": _per(rank, dilation), "group": group}
        if "pads" in given:
            begin = _per(rank, *given["pads"])
            attributes["pads"] = [*begin, *([1 - p for p in begin] if "uneven" in given else begin)]
        if "output_padding" in given:
            if stride == 1:
                continue
            attributes["output_padding"] = _per(rank, *given["output_padding"])
        if "auto_pad" in given:
            if given["auto_pad"].startswith("SAME") and dilation > 1:
                continue
            attributes["auto_pad"] = given["auto_pad"]
        if "output_shape" in given:
            attributes["output_shape"] = [s * n for s, n in zip(strides, sizes, strict=True)]
        data = Quantized((2, 4, *sizes), ("uint8", "int8")[number % 2])
        weight = Quantized((4, 3, *kernel), "int8", 1 if number % 3 else None)
        known = group == 1 and not form.startswith("output")
        case = Case("ConvTranspose", attributes, (data, weight), oracle="onnx" if known else "ort")
        yield _named(case, rank, form, "stride", stride, "dilation", dilation, "group", group)


def _products() -> Iterator[Case]:
    for number, (a, b, alpha, beta) in enumerate(product((0, 1), (0, 1), (1.0, 0.5), (1.0, 2.0))):
        attributes = {"transA": a, "transB": b, "alpha": alpha, "beta": beta}
        data = Quantized((5, 3) if a else (3, 5), ("uint8", "int8")[number % 2])
        weight = Quantized((4, 5) if b else (5, 4), "int8", 1 - b if number % 3 else None)
        case = Case("Gemm", attributes, (data, weight), "own", floats=(alpha, beta) != (1.0, 1.0))
        yield _named(case, a, b, alpha, beta)
    shapes = [
        ((3, 5), (5, 4)), ((2, 3, 5), (5, 4)), ((2, 1, 3, 5), (5, 4)), ((5,), (5, 4)), ((3, 5), (5,)), ((5,), (5,)),
        ((2, 3, 5), (2, 5, 4)), ((2, 1, 3, 5), (3, 5, 4)), ((1, 3, 5), (2, 5, 4)), ((0, 5), (5, 4)), ((3, 0), (0, 4)),
    ]  # fmt: skip
    for (left, right), kind in product(shapes, ("int8", "uint8")):
        axis = 1 if len(right) == 2 and kind == "int8" else None
        yield _named(Case("MatMul", {}, (Quantized(left), Quantized(right, kind, axis))), left, right, kind)


def _biases() -> Iterator[Case]:
    along: tuple[Kind, ...] = ("own", "other", "scalar scale", "int8", "uint8", "float")
    for op, kind, channels, rank in product(("Conv", "ConvTranspose"), along, (False, True), RANKS):
        data, spatial = Quantized((2, 3, *_per(rank, 5, 4))), _per(rank, 2, 3)
        shape = (4, 3, *spatial) if op == "Conv" else (3, 4, *spatial)
        weight = Quantized(shape, "int8", (0 if op == "Conv" else 1) if channels else None)
        case = Case(op, {}, (data, weight), kind, floats=kind != "own")
        yield _named(case, "bias", kind, "per channel" if channels else "per tensor", rank)
    for kind, channels in product((*along, "row", "scalar", "column", "matrix"), (False, True)):
        weight = Quantized((5, 4), "int8", 1 if channels else None)
        on_sums = kind in ("own", "row", "matrix") or (kind in ("scalar", "column") and not channels)
        case = Case("Gemm", {}, (Quantized((3, 5)), weight), kind, floats=not on_sums)
        yield _named(case, "bias", kind, "per channel" if channels else "per tensor")


def _joins() -> Iterator[Case]:
    shapes = [
        ((2, 3, 4), (2, 3, 4)),
        ((2, 3, 4), (4,)),
        ((3, 1), (2, 1, 4)),
        ((2, 3), ()),
        ((), (2, 3)),
        ((0, 3), (1, 3)),
    ]
    for op, (left, right), kind in product(("Add", "Mul"), shapes, ("uint8", "int8")):
        yield _named(Case(op, {}, (Quantized(left), Quantized(right, kind))), left, right, kind)
    for axis, kind in product((0, 1, 2, -1, -2, -3), ("uint8", "int8")):
        operands = []
        for length in (2, 0, 1):
            shape = [2, 3, 2]
            shape[axis] = length
            operands.append(Quantized(tuple(shape), kind))
        yield _named(Case("Concat", {"axis": axis}, tuple(operands)), axis, kind)
        yield _named(Case("Concat", {"axis": axis}, tuple(operands[:1])), axis, kind, "alone")


def _activations() -> Iterator[Case]:
    for shape, kind in product(((2, 3), (), (0, 3), (2, 1, 3, 2)), ("uint8", "int8")):
        yield _named(Case("Relu", {}, (Quantized(shape, kind),)), shape, kind)
    bounds = {"none": None, "below": np.float32(-1.5), "above": np.float32(2)}
    for low, high, kind in product(("none", "below"), ("none", "above"), ("uint8", "int8")):
        given = (
            None if bounds[low] is None else np.asarray(bounds[low]),
            None if bounds[high] is None else np.asarray(bounds[high]),
        )
        operands = (Quantized((3, 4), kind), *given)
        while operands[-1] is None:
            operands = operands[:-1]
        yield _named(Case("Clip", {}, operands), low, high, kind)


def _pools() -> Iterator[Case]:
    grid = product(RANKS, ("NOTSET", "pads", "VALID", "SAME_UPPER", "SAME_LOWER"), (1, 2, 3), (0, 1), (0, 1), (1, 2))
    for number, (rank, auto, stride, ceil, counted, dilation) in enumerate(grid):
        if dilation > 1 and auto.startswith("SAME"):
            continue
        attributes = {"kernel_shape": _per(rank, 3, 2), "strides": _per(rank, stride, 2), "ceil_mode": ceil}
        if auto == "pads":
            attributes["pads"] = [*_per(rank, 1, 0), *_per(rank, 2, 1)]
        elif auto != "NOTSET":
            attributes["auto_pad"] = auto
        if dilation > 1:
            attributes["dilations"] = _per(rank, 2, 1)
        data = Quantized((1, 2, *_per(rank, 8, 7, 6)), ("uint8", "int8")[number % 2])
        name = rank, auto, "stride", stride, "ceil", ceil, "second", counted, "dilation", dilation
        plain = auto in ("NOTSET", "pads") and dilation == 1
        average = plain or (not ceil and (auto, dilation) != ("VALID", 2))
        largest = auto == "NOTSET" or (auto == "VALID" and not ceil) or (auto == "pads" and dilation > 1)
        opset = (13, 19, 21)[number % 3] if plain else 19
        for op, second, oracle in (
            ("AveragePool", "count_include_pad", "onnx" if average else "ort"),
            ("MaxPool", "storage_order", "onnx" if largest else "ort"),
        ):
            yield _named(Case(op, attributes | {second: counted}, (data,), opset=opset, oracle=oracle), *name)
    for rank, kind in product((0, *RANKS), ("uint8", "int8")):
        yield _named(Case("GlobalAveragePool", {}, (Quantized((2, 3, *_per(rank, 4, 3)), kind),)), rank, kind)


def _resizes() -> Iterator[Case]:
    coordinates = (
        "half_pixel",
        "pytorch_half_pixel",
        "asymmetric",
        "align_corners",
        "half_pixel_symmetric",
        "tf_crop_and_resize",
    )
    roundings = ("round_prefer_floor", "round_prefer_ceil", "floor", "ceil")
    scales = {"up": (2.0, 1.5), "down": (0.6, 0.5), "mixed": (2.7, 0.4), "one": (1.0, 1 / 5), "near": (1.05, 1.2)}
    for place, rounding, factor in product(coordinates, roundings, scales):
        attributes = {"mode": "nearest", "coordinate_transformation_mode": place, "nearest_mode": rounding}
        region = np.array([0, 0, 0.1, 0, 1, 1, 0.9, 1], np.float32) if place == "tf_crop_and_resize" else None
        operands = (Quantized((1, 2, 4, 5)), region, np.array([1, 1, *scales[factor]], np.float32))
        floats = place in ("half_pixel_symmetric", "tf_crop_and_resize")
        oracle = "onnx" if factor == "up" and not floats and place != "align_corners" else "ort"
        yield _named(
            Case("Resize", attributes, operands, opset=19, floats=floats, oracle=oracle), place, rounding, factor
        )
    for rank, place, size in product(RANKS, coordinates[:4], (1, 2, 7)):
        attributes = {"mode": "nearest", "coordinate_transformation_mode": place}
        sizes = np.array([1, 1, *_per(rank, size, 3)], np.int64)
        case = Case("Resize", attributes, (Quantized((1, 1, *_per(rank, 4, 5))), None, None, sizes), opset=13)
        yield _named(case, "sizes", rank, place, size)
    for axes in ([2, 3], [3, 2], [-1], [3]):
        sizes = np.array([6, 3][: len(axes)], np.int64)
        operands = (Quantized((1, 2, 4, 5)), None, None, sizes)
        case = Case("Resize", {"axes": axes}, operands, opset=18, oracle="onnx" if min(axes) > 0 else "ort")
        yield _named(case, "axes", axes)
    for policy in ("stretch", "not_larger", "not_smaller"):
        operands = (Quantized((1, 1, 4, 5)), None, None, np.array([7, 6], np.int64))
        attributes = {"axes": [2, 3], "keep_aspect_ratio_policy": policy}
        yield _named(Case("Resize", attributes, operands, opset=18, floats=policy != "stretch"), policy)


def _pads() -> Iterator[Case]:
    widths = {"around": [0, 0, 1, 2, 0, 0, 2, 1], "cropped": [0, 0, -1, 1, 0, 0, 1, -1], "nothing": [0] * 8}
    for mode, width, kind in product(("constant", "reflect", "edge", "wrap"), widths, ("uint8", "int8")):
        if mode in ("reflect", "wrap") and width == "cropped":
            continue
        operands = (Quantized((1, 2, 4, 5), kind), np.array(widths[width], np.int64))
        cropped = width == "cropped"
        case = Case("Pad", {"mode": mode}, operands, floats=cropped, oracle="ort" if cropped else "onnx")
        yield _named(case, mode, width, kind)
    for axes, pads in (([2], [1, 2]), ([-1, 1], [1, 0, 2, 1]), ([3, 0], [0, 1, 1, 0])):
        operands = (
            Quantized((1, 2, 4, 5)),
            np.array(pads, np.int64),
            np.float32(0).reshape(()),
            np.array(axes, np.int64),
        )
        yield _named(Case("Pad", {}, operands), "axes", axes)
    off = np.float32(0.0123).reshape(())
    operands = (Quantized((1, 2, 4, 5)), np.array(widths["around"], np.int64), off)
    yield _named(Case("Pad", {}, operands, floats=True), "off the grid")


def _moves() -> Iterator[Case]:
    def ints(*values: int) -> np.ndarray:
        return np.array(values, np.int64)

    forms: list[tuple[str, dict[str, Any], tuple[int, ...], tuple[np.ndarray | None, ...]]] = [
        ("Reshape", {}, (2, 3, 4), (ints(0, -1),)),
        ("Reshape", {"allowzero": 1}, (0, 3), (ints(3, 0),)),
        ("Reshape", {}, (1,), (ints(),)),
        *(("Flatten", {"axis": axis}, (2, 3, 4), ()) for axis in (0, 1, 2, 3, -1, -3)),
        ("Transpose", {}, (2, 3, 4), ()),
        *(("Transpose", {"perm": perm}, (2, 3, 4), ()) for perm in ([0, 2, 1], [2, 0, 1], [1, 0, 2])),
        *(("Squeeze", {}, (1, 3, 1, 2), axes) for axes in ((), (ints(0),), (ints(-2),), (ints(2, 0),))),
        *(("Unsqueeze", {}, (2, 3), (axes,)) for axes in (ints(0), ints(-1), ints(0, 3), ints(1, -1))),
        ("Identity", {}, (2, 3), ()),
        ("Dropout", {}, (2, 3), ()),
        ("Slice", {}, (4, 5), (ints(1), ints(3))),
        ("Slice", {}, (4, 5), (ints(-1), ints(-100), ints(1), ints(-2))),
        ("Slice", {}, (4, 5), (ints(0, 1), ints(100, -1), ints(-1, 0), ints(2, 1))),
        ("Slice", {}, (4, 5), (ints(3), ints(3), ints(0))),
        *(("DepthToSpace", {"blocksize": 2, "mode": mode}, (1, 8, 2, 3), ()) for mode in ("DCR", "CRD")),
        ("SpaceToDepth", {"blocksize": 2}, (1, 2, 4, 6), ()),
        ("Expand", {}, (3, 1), (ints(2, 1, 4),)),
        ("Expand", {}, (3, 1), (ints(1),)),
        *(("Gather", {"axis": axis}, (3, 4), (ints(0, -1),)) for axis in (0, 1, -1)),
        ("Gather", {}, (3, 4), (np.array(1, np.int64),)),
        ("Gather", {}, (3, 4), (np.zeros((2, 0), np.int64),)),
        ("Tile", {}, (2, 3), (ints(2, 1),)),
        ("Tile", {}, (2, 3), (ints(0, 2),)),
    ]
    for number, (op, attributes, shape, rest) in enumerate(forms):
        for kind in ("uint8", "int8"):
            empty = op == "Gather" and rest[0] is not None and rest[0].size == 0
            case = Case(op, attributes, (Quantized(shape, kind), *rest), oracle="ort" if empty else "onnx")
            yield _named(case, number, attributes, kind)


def cases() -> list[Case]:
    """All of them, in the order of the operators."""
    made = (_conv, _conv_transpose, _products, _biases, _joins, _activations, _pools, _resizes, _pads, _moves)
    return [case for grid in made for case in grid()]


if __name__ == "__main__":
    counted = Counter((case.op, case.oracle) for case in cases())
    for name in sorted({op for op, _ in counted}):
        print(f"{name}: {counted[name, 'onnx']} against ONNX's evaluator, {counted[name, 'ort']} against ONNX Runtime")
    print(f"all: {counted.total()}")
