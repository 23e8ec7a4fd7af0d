"""Lowerings of activation functions."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F  # noqa: N812 - the name that PyTorch's own documentation uses

from qir.backends.torch.ops.base import Lowering, Operands, lowers, optional, tensor
from qir.graph import Node

Unary = Callable[[torch.Tensor], torch.Tensor]
Shaped = Callable[[torch.Tensor, int], torch.Tensor]


def unary(function: Unary) -> Lowering:
    """Return the lowering of a function of one tensor without attributes."""
    return lambda _, operands: function(tensor(operands))


for _name, _function in {
    "Relu": torch.relu,
    "Sigmoid": torch.sigmoid,
    "Tanh": torch.tanh,
    "HardSwish": F.hardswish,
    "Softplus": lambda x: torch.logaddexp(x, torch.zeros_like(x)),
    "Softsign": F.softsign,
    "Erf": torch.erf,
    "Mish": F.mish,
}.items():
    lowers(_name)(unary(_function))


@lowers("Clip")
def _clip(node: Node, operands: Operands) -> torch.Tensor:
    low, high = optional(operands, 1), optional(operands, 2)
    data = tensor(operands)
    if low is None and high is None:
        least, most = node.attribute("min"), node.attribute("max")
        return data if least is None and most is None else data.clamp(least, most)
    return torch.clamp(data, low, high)


@lowers("LeakyRelu")
def _leaky_relu(node: Node, operands: Operands) -> torch.Tensor:
    return F.leaky_relu(tensor(operands), node.attribute("alpha", 0.01))


@lowers("Elu")
def _elu(node: Node, operands: Operands) -> torch.Tensor:
    return F.elu(tensor(operands), node.attribute("alpha", 1.0))


@lowers("Selu")
def _selu(node: Node, operands: Operands) -> torch.Tensor:
    x = tensor(operands)
    alpha, gamma = node.attribute("alpha", 1.6732632423543772), node.attribute("gamma", 1.0507009873554805)
    made: torch.Tensor = gamma * torch.where(x > 0, x, alpha * torch.expm1(x))
    return made


@lowers("Celu")
def _celu(node: Node, operands: Operands) -> torch.Tensor:
    return F.celu(tensor(operands), node.attribute("alpha", 1.0))


@lowers("ThresholdedRelu")
def _thresholded(node: Node, operands: Operands) -> torch.Tensor:
    return F.threshold(tensor(operands), node.attribute("alpha", 1.0), 0.0)


@lowers("HardSigmoid")
def _hard_sigmoid(node: Node, operands: Operands) -> torch.Tensor:
    return torch.clamp(node.attribute("alpha", 0.2) * tensor(operands) + node.attribute("beta", 0.5), 0, 1)


@lowers("Shrink")
def _shrink(node: Node, operands: Operands) -> torch.Tensor:
    x, bias, edge = tensor(operands), node.attribute("bias", 0.0), node.attribute("lambd", 0.5)
    return torch.where(x < -edge, x + bias, torch.where(x > edge, x - bias, torch.zeros_like(x)))


@lowers("Gelu")
def _gelu(node: Node, operands: Operands) -> torch.Tensor:
    return F.gelu(tensor(operands), approximate=node.attribute("approximate", "none"))


@lowers("PRelu")
def _prelu(node: Node, operands: Operands) -> torch.Tensor:  # noqa: ARG001
    x, slope = tensor(operands, 0), tensor(operands, 1)
    return torch.where(x < 0, slope * x, x)


def _hardmax(x: torch.Tensor, axis: int) -> torch.Tensor:
    chosen = x.argmax(axis, keepdim=True)
    return torch.zeros_like(x).scatter(axis, chosen, 1)


def _along_axis(function: Shaped) -> Lowering:
    return lambda node, operands: function(tensor(operands), node.attribute("axis", -1))


def _flattened(function: Shaped) -> Lowering:
    """Before opset 13: over all dimensions from `axis` on."""

    def lowering(node: Node, operands: Operands) -> torch.Tensor:
        x, axis = tensor(operands), node.attribute("axis", 1)
        rows = x.flatten(axis % x.ndim).reshape(*x.shape[: axis % x.ndim], -1)
        return function(rows, -1).reshape(x.shape)

    return lowering


for _name, _shaped in {
    "Softmax": lambda x, axis: torch.softmax(x, axis),
    "LogSoftmax": lambda x, axis: torch.log_softmax(x, axis),
    "Hardmax": _hardmax,
}.items():
    lowers(_name)(_flattened(_shaped))
    lowers(_name, since=13)(_along_axis(_shaped))
