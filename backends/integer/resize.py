"""Nearest-neighbour resizing: which source index every output index copies.

Coordinates are float32, as in ONNX Runtime's every session: ONNX leaves their precision open, and with scales such as
0.6 it decides which of two neighbours is copied.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from qir.graph import Node
from qir.tensor import Array

_HALF = np.float32(0.5)
_ROUND: dict[str, Callable[[Array], Array]] = {
    "round_prefer_floor": lambda x: np.ceil(x - _HALF),
    "round_prefer_ceil": lambda x: np.floor(x + _HALF),
    "floor": np.floor,
    "ceil": np.ceil,
}


def nearest_indices(node: Node, shape: Sequence[int], scales: Array | None, sizes: Array | None) -> list[Array] | None:
    """Return the source indices of each axis, or None for a coordinate mode that is not covered.

    Args:
        node: an ONNX Resize node with mode nearest.
        shape: shape of its input.
        scales: its third operand, float32 [rank], or None.
        sizes: its fourth operand, int64 [rank], or None.
    """
    mode = node.attribute("coordinate_transformation_mode", "half_pixel")
    rounding = node.attribute("nearest_mode", "round_prefer_floor")
    if mode not in _COORDINATES or node.attribute("keep_aspect_ratio_policy", "stretch") != "stretch":
        return None
    if (axes := node.attribute("axes")) is not None:
        scales, sizes = _everywhere(scales, axes, np.ones(len(shape))), _everywhere(sizes, axes, np.array(shape))
    if scales is None or not scales.size:
        if sizes is None:
            return None
        outputs = [int(size) for size in sizes]
        factors = [np.float32(output) / np.float32(size) for output, size in zip(outputs, shape, strict=True)]
    else:
        factors = list(scales.astype(np.float32))
        outputs = [int(np.floor(np.float32(size) * factor)) for size, factor in zip(shape, factors, strict=True)]
    found = []
    for size, output, factor in zip(shape, outputs, factors, strict=True):
        if factor == 1:
            found.append(np.arange(size))
            continue
        place = _COORDINATES[mode](np.arange(output, dtype=np.float32), factor, size, output)
        found.append(np.clip(_ROUND[rounding](place), 0, size - 1).astype(np.int64))
    return found


def _everywhere(given: Array | None, axes: Sequence[int], rest: Array) -> Array | None:
    """Return scales or sizes of some axes, completed for all."""
    if given is None or not given.size:
        return None
    whole = rest.astype(given.dtype)
    whole[list(axes)] = given
    return whole


def _ratio(sizes: int, outputs: int) -> np.float32:
    return np.float32(sizes) / np.float32(outputs) if outputs else np.float32(0)


_COORDINATES: dict[str, Callable[[Array, np.float32, int, int], Array]] = {
    "half_pixel": lambda x, factor, size, output: (x + _HALF) / factor - _HALF,  # noqa: ARG005
    "pytorch_half_pixel": lambda x, factor, size, output: (x + _HALF) / factor - _HALF if output > 1 else x * 0,  # noqa: ARG005
    "asymmetric": lambda x, factor, size, output: x / factor,  # noqa: ARG005
    "align_corners": lambda x, factor, size, output: x * _ratio(size - 1, output - 1),  # noqa: ARG005
}
