"""Lowerings of Resize, Upsample and GridSample: separable interpolation by ONNX's formulas, axis by axis."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812 - the name that PyTorch's own documentation uses

from qir.backends.torch.ops.base import Operands, integers, lowers, optional, tensor
from qir.errors import QirError
from qir.graph import Node


@lowers("Upsample")
@lowers("Resize", since=10)
def _upsample(node: Node, operands: Operands) -> torch.Tensor:
    """Return the older operators: asymmetric coordinates, floor for nearest."""
    data = tensor(operands)
    given = optional(operands, 1)
    scales = list(node.attribute("scales", ())) if given is None else given.reshape(-1).tolist()
    mode = "linear" if node.attribute("mode", "nearest") in {"linear", "bilinear"} else "nearest"
    sizes = [int(size * scale) for size, scale in zip(data.shape, scales, strict=True)]
    for axis, (size, scale) in enumerate(zip(sizes, scales, strict=True)):
        if scale != 1:
            places = torch.arange(size, dtype=torch.float32, device=data.device) / scale
            data = _gathered(data, axis, places, mode, "floor", -0.75, exclude_outside=False)
    return data


@lowers("Resize", since=11)
def _resize(node: Node, operands: Operands) -> torch.Tensor:
    data = tensor(operands)
    axes = list(node.attribute("axes", tuple(range(data.ndim))))
    transformation = node.attribute("coordinate_transformation_mode", "half_pixel")
    if transformation == "tf_crop_and_resize" or node.attribute("antialias", 0):
        raise QirError(f"node {node}: torch execution knows no cropping or antialiasing Resize; use OrtSession")
    sizes, scales = _sizes_and_scales(node, operands, [data.shape[axis] for axis in axes])
    mode = node.attribute("mode", "nearest")
    for axis, size, scale in zip(axes, sizes, scales, strict=True):
        if size == data.shape[axis] and scale == 1:
            continue
        places = _coordinates(size, data.shape[axis], scale, transformation).to(data.device)
        data = _gathered(
            data,
            axis,
            places,
            mode,
            node.attribute("nearest_mode", "round_prefer_floor"),
            node.attribute("cubic_coeff_a", -0.75),
            exclude_outside=bool(node.attribute("exclude_outside", 0)),
        )
    return data


def _sizes_and_scales(node: Node, operands: Operands, old: list[int]) -> tuple[list[int], list[float]]:
    given = optional(operands, 2)
    if given is not None and given.numel():
        scales: list[float] = given.reshape(-1).tolist()
        return [int(size * scale) for size, scale in zip(old, scales, strict=True)], scales
    sizes = integers(operands, 3)
    if sizes is None:
        raise QirError(f"node {node}: Resize needs scales or sizes")
    policy = node.attribute("keep_aspect_ratio_policy", "stretch")
    scales = [new / size for new, size in zip(sizes, old, strict=True)]
    if policy != "stretch":
        scale = min(scales) if policy == "not_larger" else max(scales)
        scales = [scale] * len(sizes)
        sizes = [int(size * scale + 0.5) for size in old]
    return sizes, scales


def _coordinates(size: int, old: int, scale: float, mode: str) -> torch.Tensor:
    """Place in the old axis of every place in the new one (ONNX Resize, coordinate_transformation_mode)."""
    places = torch.arange(size, dtype=torch.float32)
    if mode == "align_corners":
        return places * (old - 1) / (size - 1) if size > 1 else torch.zeros(1)
    if mode == "asymmetric":
        return places / scale
    if mode == "pytorch_half_pixel" and size == 1:
        return torch.zeros(1)
    if mode == "half_pixel_symmetric":
        wanted = old * scale
        return old / 2 * (1 - size / wanted) + (places + 0.5) / scale - 0.5
    return (places + 0.5) / scale - 0.5


_NEAREST: dict[str, Any] = {
    "floor": torch.floor,
    "ceil": torch.ceil,
    "round_prefer_floor": lambda x: torch.ceil(x - 0.5),
    "round_prefer_ceil": lambda x: torch.floor(x + 0.5),
}


def _gathered(
    data: torch.Tensor, axis: int, places: torch.Tensor, mode: str, rounding: str, a: float, *, exclude_outside: bool
) -> torch.Tensor:
    """Interpolate along one axis."""
    last = data.shape[axis] - 1
    if mode == "nearest":
        index = _NEAREST[rounding](places).long().clamp(0, last)
        return data.index_select(axis, index)
    base = places.floor()
    part = places - base
    offsets, weights = ((0, 1), _linear(part)) if mode == "linear" else ((-1, 0, 1, 2), _cubic(part, a))
    shape = [1] * data.ndim
    shape[axis] = -1
    if exclude_outside:
        inside = [((base + o >= 0) & (base + o <= last)).to(weights[0]) for o in offsets]
        weights = [w * i for w, i in zip(weights, inside, strict=True)]
        total = torch.stack(weights).sum(0)
        weights = [w / total for w in weights]
    parts = [
        data.index_select(axis, (base + offset).long().clamp(0, last)) * weight.reshape(shape)
        for offset, weight in zip(offsets, weights, strict=True)
    ]
    return torch.stack(parts).sum(0)


def _linear(part: torch.Tensor) -> list[torch.Tensor]:
    return [1 - part, part]


def _cubic(part: torch.Tensor, a: float) -> list[torch.Tensor]:
    """Return Keys' cubic convolution kernel at the four neighbours."""

    def near(x: torch.Tensor) -> torch.Tensor:
        return ((a + 2) * x - (a + 3)) * x * x + 1

    def far(x: torch.Tensor) -> torch.Tensor:
        return ((a * x - 5 * a) * x + 8 * a) * x - 4 * a

    return [far(part + 1), near(part), near(1 - part), far(2 - part)]


@lowers("GridSample")
def _grid_sample(node: Node, operands: Operands) -> torch.Tensor:
    mode = {"linear": "bilinear", "cubic": "bicubic"}.get(
        node.attribute("mode", "linear"), node.attribute("mode", "linear")
    )
    return F.grid_sample(
        tensor(operands, 0),
        tensor(operands, 1),
        mode=mode,
        padding_mode=node.attribute("padding_mode", "zeros"),
        align_corners=bool(node.attribute("align_corners", 0)),
    )
