"""Lowerings of normalizations."""

from __future__ import annotations

import torch
import torch.nn.functional as F  # noqa: N812 - the name that PyTorch's own documentation uses

from qir.backends.torch.ops.base import Operands, Result, lowers, optional, tensor
from qir.errors import QirError
from qir.graph import Node


@lowers("BatchNormalization")
def _batch_normalization(node: Node, operands: Operands) -> torch.Tensor:
    """With frozen statistics, in training too."""
    if node.attribute("training_mode", 0):
        raise QirError(f"node {node}: torch execution keeps statistics frozen; export the network for inference")
    x, scale, bias, mean, variance = operands[:5]
    return F.batch_norm(tensor([x]), mean, variance, scale, bias, training=False, eps=node.attribute("epsilon", 1e-5))


@lowers("InstanceNormalization")
def _instance_normalization(node: Node, operands: Operands) -> torch.Tensor:
    return F.instance_norm(
        tensor(operands), weight=tensor(operands, 1), bias=tensor(operands, 2), eps=node.attribute("epsilon", 1e-5)
    )


@lowers("LayerNormalization")
def _layer_normalization(node: Node, operands: Operands) -> Result:
    x, epsilon = tensor(operands), node.attribute("epsilon", 1e-5)
    axis = node.attribute("axis", -1) % x.ndim
    made = F.layer_norm(x, list(x.shape[axis:]), tensor(operands, 1), optional(operands, 2), epsilon)
    if len(node.results) == 1:
        return made
    axes = list(range(axis, x.ndim))
    variance = x.var(axes, correction=0, keepdim=True)
    return made, x.mean(axes, keepdim=True), (variance + epsilon).rsqrt()


@lowers("RMSNormalization", since=23)
def _rms_normalization(node: Node, operands: Operands) -> torch.Tensor:
    x = tensor(operands)
    shape = list(x.shape[node.attribute("axis", -1) :])
    return F.rms_norm(x, shape, tensor(operands, 1), node.attribute("epsilon", 1e-5))


@lowers("GroupNormalization", since=21)
def _group_normalization(node: Node, operands: Operands) -> torch.Tensor:
    groups = node.attribute("num_groups")
    return F.group_norm(
        tensor(operands), groups, tensor(operands, 1), tensor(operands, 2), node.attribute("epsilon", 1e-5)
    )


@lowers("LRN")
def _local_response(node: Node, operands: Operands) -> torch.Tensor:
    x, size = tensor(operands), node.attribute("size")
    begin, end = (size - 1) // 2, size - 1 - (size - 1) // 2
    squares = F.pad((x * x).movedim(1, -1), (begin, end)).unfold(-1, size, 1).sum(-1).movedim(-1, 1)
    bias, alpha, beta = node.attribute("bias", 1.0), node.attribute("alpha", 1e-4), node.attribute("beta", 0.75)
    made: torch.Tensor = x / (bias + alpha / size * squares) ** beta
    return made


@lowers("LpNormalization")
def _lp_normalization(node: Node, operands: Operands) -> torch.Tensor:
    x = tensor(operands)
    norm = x.norm(node.attribute("p", 2), node.attribute("axis", -1), keepdim=True)
    return torch.where(norm == 0, torch.zeros_like(x), x / norm)


@lowers("MeanVarianceNormalization")
def _mean_variance(node: Node, operands: Operands) -> torch.Tensor:
    x, axes = tensor(operands), list(node.attribute("axes", (0, 2, 3)))
    mean = x.mean(axes, keepdim=True)
    spread = ((x * x).mean(axes, keepdim=True) - mean * mean).sqrt()
    return (x - mean) / (spread + 1e-9)
