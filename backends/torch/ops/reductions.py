"""Lowerings of reductions."""

from __future__ import annotations

from collections.abc import Callable
from functools import reduce

import torch

from qir.backends.torch.ops.base import Lowering, Operands, axes_of, lowers, tensor
from qir.graph import Node

Reduction = Callable[[torch.Tensor, list[int], bool], torch.Tensor]


def _product(x: torch.Tensor, axes: list[int], keep: bool) -> torch.Tensor:
    made = reduce(lambda value, axis: value.prod(axis, keepdim=True), axes, x)
    return made if keep else made.squeeze(axes)


_REDUCTIONS: dict[str, Reduction] = {
    "ReduceSum": lambda x, axes, keep: x.sum(axes, keepdim=keep, dtype=x.dtype),
    "ReduceMean": lambda x, axes, keep: x.mean(axes, keepdim=keep),
    "ReduceMax": lambda x, axes, keep: x.amax(axes, keepdim=keep),
    "ReduceMin": lambda x, axes, keep: x.amin(axes, keepdim=keep),
    "ReduceProd": _product,
    "ReduceL1": lambda x, axes, keep: x.abs().sum(axes, keepdim=keep),
    "ReduceL2": lambda x, axes, keep: (x * x).sum(axes, keepdim=keep).sqrt(),
    "ReduceLogSum": lambda x, axes, keep: x.sum(axes, keepdim=keep).log(),
    "ReduceLogSumExp": lambda x, axes, keep: x.logsumexp(axes, keepdim=keep),
    "ReduceSumSquare": lambda x, axes, keep: (x * x).sum(axes, keepdim=keep),
}


def _lowering(reduction: Reduction) -> Lowering:
    def lowering(node: Node, operands: Operands) -> torch.Tensor:
        data = tensor(operands)
        axes = axes_of(node, operands)
        if not axes:
            if node.attribute("noop_with_empty_axes", 0):
                return reduction(data.unsqueeze(-1), [data.ndim], False)
            axes = list(range(data.ndim))
        return reduction(data, [axis % max(data.ndim, 1) for axis in axes], bool(node.attribute("keepdims", 1)))

    return lowering


for _name, _reduction in _REDUCTIONS.items():
    lowers(_name)(_lowering(_reduction))
