"""Lowerings of ops that pick elements by index, and of ops that find indices."""

from __future__ import annotations

import torch

from qir.backends.torch.ops.base import Operands, Result, integers, lowers, tensor
from qir.errors import QirError
from qir.graph import Node


def _wrapped(index: torch.Tensor, length: int) -> torch.Tensor:
    """Let negative indices count from the end."""
    index = index.long()
    return torch.where(index < 0, index + length, index)


@lowers("Gather")
def _gather(node: Node, operands: Operands) -> torch.Tensor:
    data, index = tensor(operands), tensor(operands, 1)
    axis = node.attribute("axis", 0) % data.ndim
    chosen = data.index_select(axis, _wrapped(index, data.shape[axis]).reshape(-1))
    return chosen.reshape((*data.shape[:axis], *index.shape, *data.shape[axis + 1 :]))


@lowers("GatherElements")
def _gather_elements(node: Node, operands: Operands) -> torch.Tensor:
    data, index, axis = tensor(operands), tensor(operands, 1), node.attribute("axis", 0)
    return data.gather(axis, _wrapped(index, data.shape[axis]))


@lowers("GatherND")
def _gather_nd(node: Node, operands: Operands) -> torch.Tensor:
    data, index, batch = tensor(operands), tensor(operands, 1).long(), node.attribute("batch_dims", 0)
    depth = index.shape[-1]
    lead = [
        torch.arange(size, device=data.device).reshape([-1 if i == axis else 1 for i in range(index.ndim - 1)])
        for axis, size in enumerate(data.shape[:batch])
    ]
    places = [_wrapped(index[..., i], data.shape[batch + i]) for i in range(depth)]
    made: torch.Tensor = data[(*lead, *places)]
    return made


_REDUCTIONS = {"add": "sum", "mul": "prod", "max": "amax", "min": "amin"}


@lowers("ScatterElements")
def _scatter_elements(node: Node, operands: Operands) -> torch.Tensor:
    data, index, updates = tensor(operands), tensor(operands, 1), tensor(operands, 2)
    axis, reduction = node.attribute("axis", 0), node.attribute("reduction", "none")
    index = _wrapped(index, data.shape[axis])
    if reduction == "none":
        return data.scatter(axis, index, updates)
    return data.scatter_reduce(axis, index, updates, _REDUCTIONS[reduction])


@lowers("ScatterND")
def _scatter_nd(node: Node, operands: Operands) -> torch.Tensor:
    data, index, updates = tensor(operands), tensor(operands, 1).long(), tensor(operands, 2)
    reduction = node.attribute("reduction", "none")
    if reduction not in {"none", "add"}:
        raise QirError(f"node {node}: torch execution knows ScatterND without reduction and with `add`; use OrtSession")
    places = tuple(_wrapped(index[..., i], data.shape[i]) for i in range(index.shape[-1]))
    return data.index_put(places, updates, accumulate=reduction == "add")


@lowers("Compress")
def _compress(node: Node, operands: Operands) -> torch.Tensor:
    data, condition, axis = tensor(operands), tensor(operands, 1), node.attribute("axis")
    if axis is None:
        data, axis = data.reshape(-1), 0
    places: torch.Tensor = condition.nonzero().reshape(-1)
    return data.index_select(axis, places)


@lowers("NonZero")
def _non_zero(node: Node, operands: Operands) -> torch.Tensor:  # noqa: ARG001
    return tensor(operands).nonzero().T


@lowers("ArgMax", "ArgMin")
def _arg_extreme(node: Node, operands: Operands) -> torch.Tensor:
    data, axis, keep = tensor(operands), node.attribute("axis", 0), bool(node.attribute("keepdims", 1))
    find = torch.argmax if node.op == "ArgMax" else torch.argmin
    if node.attribute("select_last_index", 0):
        found: torch.Tensor = data.shape[axis] - 1 - find(data.flip(axis), axis, keepdim=keep)
        return found
    return find(data, axis, keepdim=keep)


@lowers("TopK")
def _top_k(node: Node, operands: Operands) -> Result:
    data = tensor(operands)
    given = integers(operands, 1)
    count = node.attribute("k") if given is None else given[0]
    axis = node.attribute("axis", -1)
    found = torch.sort(data, dim=axis, descending=bool(node.attribute("largest", 1)), stable=True)
    return found.values.narrow(axis, 0, count), found.indices.narrow(axis, 0, count)


@lowers("CumSum")
def _cum_sum(node: Node, operands: Operands) -> torch.Tensor:
    data, axis = tensor(operands), (integers(operands, 1) or [0])[0]
    reverse = bool(node.attribute("reverse", 0))
    data = data.flip(axis) if reverse else data
    made = data.cumsum(axis, dtype=data.dtype)
    made = made - data if node.attribute("exclusive", 0) else made
    return made.flip(axis) if reverse else made
