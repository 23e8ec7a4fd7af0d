"""Lowerings of arithmetic, comparison and logic."""

from __future__ import annotations

from collections.abc import Callable
from functools import reduce
from typing import Any

import torch

from qir.backends.torch.ops.activations import Unary, unary
from qir.backends.torch.ops.base import Lowering, Operands, lowers, tensor, torch_dtype
from qir.graph import Node

Binary = Callable[[Any, Any], torch.Tensor]


def _binary(function: Binary) -> Lowering:
    return lambda _, operands: function(operands[0], operands[1])


def _variadic(function: Binary) -> Lowering:
    return lambda _, operands: reduce(function, [o for o in operands if o is not None])


def _divide(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    return torch.div(a, b, rounding_mode=None if a.is_floating_point() else "trunc")


def _power(base: torch.Tensor, exponent: torch.Tensor) -> torch.Tensor:
    return torch.pow(base, exponent).to(base.dtype)


_UNARY: dict[str, Unary] = {
    "Abs": torch.abs,
    "Neg": torch.neg,
    "Exp": torch.exp,
    "Ceil": torch.ceil,
    "Floor": torch.floor,
    "Round": torch.round,
    "Sign": torch.sign,
    "Sin": torch.sin,
    "Cos": torch.cos,
    "Tan": torch.tan,
    "Sinh": torch.sinh,
    "Cosh": torch.cosh,
    "Asin": torch.asin,
    "Acos": torch.acos,
    "Atan": torch.atan,
    "Asinh": torch.asinh,
    "Acosh": torch.acosh,
    "Atanh": torch.atanh,
    "Sqrt": torch.sqrt,
    "Log": torch.log,
    "Reciprocal": torch.reciprocal,
    "Not": torch.logical_not,
    "IsNaN": torch.isnan,
}
_BINARY: dict[str, Binary] = {
    "Add": torch.add,
    "Sub": torch.sub,
    "Mul": torch.mul,
    "Div": _divide,
    "Pow": _power,
    "Equal": torch.eq,
    "Greater": torch.gt,
    "GreaterOrEqual": torch.ge,
    "Less": torch.lt,
    "LessOrEqual": torch.le,
    "And": torch.logical_and,
    "Or": torch.logical_or,
    "Xor": torch.logical_xor,
}
_BITWISE: dict[str, Binary] = {
    "BitwiseAnd": torch.bitwise_and,
    "BitwiseOr": torch.bitwise_or,
    "BitwiseXor": torch.bitwise_xor,
}
_VARIADIC: dict[str, Binary] = {"Max": torch.maximum, "Min": torch.minimum, "Sum": torch.add}

lowers("BitwiseNot", since=18)(unary(torch.bitwise_not))
for _name, _one in _UNARY.items():
    lowers(_name)(unary(_one))
for _name, _two in _BINARY.items():
    lowers(_name)(_binary(_two))
for _name, _two in _BITWISE.items():
    lowers(_name, since=18)(_binary(_two))
for _name, _two in _VARIADIC.items():
    lowers(_name)(_variadic(_two))


@lowers("Mean")
def _mean(node: Node, operands: Operands) -> torch.Tensor:  # noqa: ARG001
    given = [o for o in operands if o is not None]
    return reduce(torch.add, given) / len(given)


@lowers("Mod")
def _mod(node: Node, operands: Operands) -> torch.Tensor:
    function: Binary = torch.fmod if node.attribute("fmod", 0) else torch.remainder
    return function(tensor(operands, 0), tensor(operands, 1))


@lowers("IsInf")
def _is_inf(node: Node, operands: Operands) -> torch.Tensor:
    x = tensor(operands)
    made = torch.zeros_like(x, dtype=torch.bool)
    if node.attribute("detect_positive", 1):
        made = made | torch.isposinf(x)
    if node.attribute("detect_negative", 1):
        made = made | torch.isneginf(x)
    return made


@lowers("Cast")
def _cast(node: Node, operands: Operands) -> torch.Tensor:
    return tensor(operands).to(torch_dtype(node.attribute("to")))


@lowers("CastLike")
def _cast_like(node: Node, operands: Operands) -> torch.Tensor:  # noqa: ARG001
    return tensor(operands).to(tensor(operands, 1).dtype)


@lowers("BitShift")
def _bit_shift(node: Node, operands: Operands) -> torch.Tensor:
    function = torch.bitwise_left_shift if node.attribute("direction") == "LEFT" else torch.bitwise_right_shift
    return function(tensor(operands, 0), tensor(operands, 1))
