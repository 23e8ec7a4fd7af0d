"""Lowerings of ops that copy elements: shapes, slices, joins, padding."""

from __future__ import annotations

import math

import torch

from qir.backends.torch.ops.activations import unary
from qir.backends.torch.ops.base import Operands, Result, axes_of, integers, lowers, optional, tensor, torch_dtype
from qir.errors import QirError
from qir.graph import Node
from qir.tensor import Tensor

lowers("Identity")(unary(lambda x: x))


@lowers("Dropout")
def _dropout(node: Node, operands: Operands) -> Result:
    x, training = tensor(operands), optional(operands, 2)
    if training is not None and bool(training):
        raise QirError(f"node {node}: torch execution drops nothing; export the network for inference")
    return x if len(node.results) == 1 else (x, torch.ones_like(x, dtype=torch.bool))


@lowers("Reshape")
def _reshape(node: Node, operands: Operands) -> torch.Tensor:
    data = tensor(operands)
    sizes = integers(operands, 1)
    sizes = list(node.attribute("shape")) if sizes is None else sizes
    if not node.attribute("allowzero", 0):
        sizes = [data.shape[axis] if size == 0 else size for axis, size in enumerate(sizes)]
    return data.reshape(sizes)


@lowers("Flatten")
def _flatten(node: Node, operands: Operands) -> torch.Tensor:
    data, axis = tensor(operands), node.attribute("axis", 1)
    axis = axis + data.ndim if axis < 0 else axis
    rows = math.prod(data.shape[:axis])
    return data.reshape(rows, math.prod(data.shape[axis:]))


@lowers("Transpose")
def _transpose(node: Node, operands: Operands) -> torch.Tensor:
    data = tensor(operands)
    return data.permute(node.attribute("perm") or tuple(reversed(range(data.ndim))))


@lowers("Squeeze")
def _squeeze(node: Node, operands: Operands) -> torch.Tensor:
    axes = axes_of(node, operands)
    return tensor(operands).squeeze() if axes is None else tensor(operands).squeeze(tuple(axes))


@lowers("Unsqueeze")
def _unsqueeze(node: Node, operands: Operands) -> torch.Tensor:
    data = tensor(operands)
    axes = axes_of(node, operands) or []
    rank = data.ndim + len(axes)
    for axis in sorted(axis % rank for axis in axes):
        data = data.unsqueeze(axis)
    return data


@lowers("Slice")
def _slice(node: Node, operands: Operands) -> torch.Tensor:
    data = tensor(operands)
    if len(operands) > 1:
        starts, ends = integers(operands, 1) or [], integers(operands, 2) or []
        axes, steps = integers(operands, 3), integers(operands, 4)
    else:
        starts, ends, axes, steps = (
            list(node.attribute("starts")),
            list(node.attribute("ends")),
            node.attribute("axes"),
            None,
        )
    axes = list(range(len(starts))) if axes is None else axes
    for start, end, axis, step in zip(starts, ends, axes, steps or [1] * len(starts), strict=True):
        chosen = _chosen(data.shape[axis], start, end, step)
        if step > 0:
            data = data[(slice(None),) * (axis % data.ndim) + (slice(chosen.start, chosen.stop, step),)]
        else:
            data = data.index_select(axis, torch.tensor(list(chosen), dtype=torch.int64, device=data.device))
    return data


def _chosen(length: int, start: int, end: int, step: int) -> range:
    """Return the places of a slice (ONNX Slice).

    Ends outside are clamped, for steps below 0 otherwise than in Python.
    """
    start, end = (place + length if place < 0 else place for place in (start, end))
    if step > 0:
        return range(min(max(start, 0), length), min(max(end, 0), length), step)
    return range(max(min(start, length - 1), 0), max(min(end, length - 1), -1), step) if length else range(0)


@lowers("Split")
def _split(node: Node, operands: Operands) -> Result:
    data, axis, count = tensor(operands), node.attribute("axis", 0), len(node.results)
    sizes = integers(operands, 1)
    if sizes is None and node.attribute("split") is not None:
        sizes = list(node.attribute("split"))
    if sizes is None:
        length = data.shape[axis]
        part = -(-length // count)
        sizes = [max(min(part, length - part * i), 0) for i in range(count)]
    return torch.split_with_sizes(data, sizes, axis)


@lowers("Concat")
def _concat(node: Node, operands: Operands) -> torch.Tensor:
    return torch.cat([o for o in operands if o is not None], node.attribute("axis", 1))


@lowers("Expand")
def _expand(node: Node, operands: Operands) -> torch.Tensor:  # noqa: ARG001
    data = tensor(operands)
    sizes = integers(operands, 1) or []
    own = [1] * (len(sizes) - data.ndim) + list(data.shape)
    wanted = [1] * (data.ndim - len(sizes)) + sizes
    return data.expand([a if b == 1 else b for a, b in zip(own, wanted, strict=True)])


@lowers("Tile")
def _tile(node: Node, operands: Operands) -> torch.Tensor:  # noqa: ARG001
    return tensor(operands).repeat(*(integers(operands, 1) or [1]))


@lowers("Pad")
def _pad(node: Node, operands: Operands) -> torch.Tensor:
    data = tensor(operands)
    pads, value = integers(operands, 1), optional(operands, 2)
    pads = list(node.attribute("pads", ())) if pads is None else pads
    number = node.attribute("value", 0.0) if value is None else value.reshape(-1)[0].item()
    axes = integers(operands, 3)
    axes = list(range(data.ndim)) if axes is None else axes
    for i, axis in enumerate(axes):
        begin, end = pads[i], pads[i + len(axes)]
        data = _pad_axis(data, axis % data.ndim, begin, end, node.attribute("mode", "constant"), number)
    return data


def _pad_axis(data: torch.Tensor, axis: int, begin: int, end: int, mode: str, number: float) -> torch.Tensor:
    """Pad one axis; negative padding crops."""
    data = data.narrow(axis, max(-begin, 0), data.shape[axis] + min(begin, 0) + min(end, 0))
    begin, end, length = max(begin, 0), max(end, 0), data.shape[axis]
    if begin == end == 0:
        return data
    if mode == "constant":
        parts = [data.new_full((*data.shape[:axis], n, *data.shape[axis + 1 :]), number) for n in (begin, end)]
        return torch.cat([parts[0], data, parts[1]], axis)
    places = torch.arange(-begin, length + end, device=data.device)
    if mode == "edge":
        places = places.clamp(0, length - 1)
    elif mode == "wrap":
        places = places % length
    elif mode == "reflect":
        period = max(2 * (length - 1), 1)
        places = (places % period).clamp(max=period)
        places = torch.where(places >= length, period - places, places)
    else:
        raise QirError(f"Pad: mode {mode!r} is unknown; expected constant, edge, reflect or wrap")
    return data.index_select(axis, places)


@lowers("DepthToSpace")
def _depth_to_space(node: Node, operands: Operands) -> torch.Tensor:
    data, block = tensor(operands), node.attribute("blocksize")
    n, c, h, w = data.shape
    if node.attribute("mode", "DCR") == "DCR":
        parts = data.reshape(n, block, block, c // block**2, h, w).permute(0, 3, 4, 1, 5, 2)
    else:
        parts = data.reshape(n, c // block**2, block, block, h, w).permute(0, 1, 4, 2, 5, 3)
    return parts.reshape(n, c // block**2, h * block, w * block)


@lowers("SpaceToDepth")
def _space_to_depth(node: Node, operands: Operands) -> torch.Tensor:
    data, block = tensor(operands), node.attribute("blocksize")
    n, c, h, w = data.shape
    parts = data.reshape(n, c, h // block, block, w // block, block).permute(0, 3, 5, 1, 2, 4)
    return parts.reshape(n, c * block**2, h // block, w // block)


@lowers("Shape")
def _shape(node: Node, operands: Operands) -> torch.Tensor:
    shape = list(tensor(operands).shape)[slice(node.attribute("start", 0), node.attribute("end"))]
    return torch.tensor(shape, dtype=torch.int64)


@lowers("Size")
def _size(node: Node, operands: Operands) -> torch.Tensor:  # noqa: ARG001
    return torch.tensor(tensor(operands).numel())


def _stored(value: Tensor) -> torch.Tensor:
    return torch.from_numpy(value.numpy().copy())


@lowers("Constant")
def _constant(node: Node, operands: Operands) -> torch.Tensor:  # noqa: ARG001
    value = node.attribute("value")
    if value is not None:
        return _stored(value)
    for name, dtype in (
        ("value_float", torch.float32),
        ("value_floats", torch.float32),
        ("value_int", torch.int64),
        ("value_ints", torch.int64),
    ):
        if node.attribute(name) is not None:
            return torch.tensor(node.attribute(name), dtype=dtype)
    raise QirError(f"node {node}: torch execution knows no constants of strings or sparse tensors")


@lowers("ConstantOfShape")
def _constant_of_shape(node: Node, operands: Operands) -> torch.Tensor:
    value = node.attribute("value")
    fill = torch.zeros(1) if value is None else _stored(value)
    return fill.reshape(-1)[0].to(tensor(operands).device).expand(integers(operands, 0) or []).clone()


@lowers("Range")
def _range(node: Node, operands: Operands) -> torch.Tensor:  # noqa: ARG001
    start = tensor(operands)
    return torch.arange(start.item(), tensor(operands, 1).item(), tensor(operands, 2).item(), dtype=start.dtype)


@lowers("Trilu")
def _trilu(node: Node, operands: Operands) -> torch.Tensor:
    diagonal = (integers(operands, 1) or [0])[0]
    return (torch.triu if node.attribute("upper", 1) else torch.tril)(tensor(operands), diagonal)


@lowers("EyeLike")
def _eye_like(node: Node, operands: Operands) -> torch.Tensor:
    x = tensor(operands)
    dtype = x.dtype if node.attribute("dtype") is None else torch_dtype(node.attribute("dtype"))
    ones = torch.ones(x.shape, dtype=dtype, device=x.device)
    return torch.triu(torch.tril(ones, node.attribute("k", 0)), node.attribute("k", 0))


@lowers("OneHot")
def _one_hot(node: Node, operands: Operands) -> torch.Tensor:
    index, depth, values = tensor(operands), (integers(operands, 1) or [0])[0], tensor(operands, 2)
    axis = node.attribute("axis", -1) % (index.ndim + 1)
    places = torch.arange(depth, device=index.device).reshape(depth, *(1,) * (index.ndim - axis))
    index = torch.where(index < 0, index + depth, index).unsqueeze(axis)
    return torch.where(index == places, values[1], values[0])


@lowers("Where")
def _where(node: Node, operands: Operands) -> torch.Tensor:  # noqa: ARG001
    return torch.where(tensor(operands, 0), tensor(operands, 1), tensor(operands, 2))


@lowers("ReverseSequence")
def _reverse_sequence(node: Node, operands: Operands) -> torch.Tensor:
    data, lengths = tensor(operands), tensor(operands, 1)
    time, batch = node.attribute("time_axis", 0), node.attribute("batch_axis", 1)
    moved = data.movedim((time, batch), (0, 1))
    steps = torch.arange(moved.shape[0], device=data.device)[:, None]
    index = torch.where(steps < lengths, lengths - 1 - steps, steps)
    return moved[index, torch.arange(moved.shape[1], device=data.device)].movedim((0, 1), (time, batch))
