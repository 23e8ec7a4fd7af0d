"""Per-channel affine maps y = scale * x + shift: BatchNormalization, and Add, Sub, Mul, Div by a constant."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from qir.graph import Node, Value
from qir.passes.analysis.constants import array_of, is_standard
from qir.rewriting.engine import Reject as Reject
from qir.tensor import Array

Vector = npt.NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Affine:
    """y = scale * x + shift per channel.

    Attributes:
        scale: float64 [channels].
        shift: float64 [channels].
    """

    scale: Vector
    shift: Vector

    @property
    def channels(self) -> int:
        """Number of channels."""
        return len(self.scale)

    def part(self, start: int, stop: int) -> Affine:
        """Return the map of the channels from `start` up to, without, `stop`."""
        return Affine(self.scale[start:stop], self.shift[start:stop])


def _is_training(node: Node, opset: int) -> bool:
    if opset >= 14:
        return bool(node.attribute("training_mode", 0))
    if opset < 7 and not node.attribute("is_test", 0):
        return True
    return any(value.name for value in node.results[1:])


def batchnorm_affine(node: Node, opset: int) -> Affine | Reject:
    """Return what an inference-time BatchNormalization node computes per channel, in float64.

    Args:
        node: a BatchNormalization of any version.
        opset: the version of ONNX's operator set that the node is written in.
    """
    if any(attribute.reference for attribute in node.attributes.values()):
        return Reject("its attributes are the function's parameters")
    if _is_training(node, opset):
        return Reject("it runs in training mode")
    if opset < 9 and not node.attribute("spatial", 1):
        return Reject("it normalizes per element (spatial=0)")
    arrays = [array_of(node.input(index)) for index in range(1, 5)]
    for index, array in enumerate(arrays, start=1):
        if array is None:
            value = node.input(index)
            return Reject(f"operand {value.name if value else index!r} is not constant")
    gamma, beta, mean, variance = (np.asarray(array, dtype=np.float64) for array in arrays)
    with np.errstate(all="ignore"):
        scale = gamma / np.sqrt(variance + node.attribute("epsilon", 1e-5))
        shift = beta - mean * scale
    if not (np.isfinite(scale).all() and np.isfinite(shift).all()):
        return Reject("variance + epsilon is not positive, or a parameter is not finite")
    return Affine(scale, shift)


def channel_vector(constant: Array, axis: int, channels: int) -> Vector | None:
    """Return the constant as one number a channel when that is all it varies along, else None.

    Args:
        constant: broadcasts against a tensor whose channels lie on `axis`.
        axis: channel axis counted from the end (negative), because broadcasting aligns there.
        channels: length of that axis.

    Returns:
        float64 [channels], or None.
    """
    if constant.dtype.kind != "f" and constant.dtype.name != "bfloat16":
        return None
    if constant.size == 1:
        return np.full(channels, float(constant.reshape(-1)[0]))
    if constant.ndim < -axis or constant.shape[axis] != channels or constant.size != channels:
        return None
    return np.asarray(constant, dtype=np.float64).reshape(-1)


def elementwise_affine(node: Node, data: Value, axis: int, channels: int, rank: int | None) -> Affine | Reject:
    """Return what Add, Sub, Mul or Div with a constant does per channel to `data`, its other operand.

    Args:
        node: the elementwise node.
        data: the operand that is not constant.
        axis: channel axis of `data`, counted from the end.
        channels: length of that axis.
        rank: rank of `data`; a constant of higher rank would add dimensions. None when unknown.
    """
    if not is_standard(node, "Add", "Sub", "Mul", "Div"):
        return Reject(f"{node.op} is not an affine map")
    left = node.input(0) is data
    constant = array_of(node.input(1 if left else 0))
    if constant is None:
        return Reject("its other operand is not constant")
    if constant.ndim > (rank if rank is not None else -axis):
        return Reject("its constant has more dimensions than the data")
    vector = channel_vector(constant, axis, channels)
    if vector is None:
        return Reject("its constant varies along more than the channels")
    return _combine(node.op, left, vector)


def _combine(op: str, left: bool, vector: Vector) -> Affine | Reject:
    one, zero = np.ones_like(vector), np.zeros_like(vector)
    if op == "Add":
        return Affine(one, vector)
    if op == "Sub":
        return Affine(one, -vector) if left else Affine(-one, vector)
    if op == "Mul":
        return Affine(vector, zero)
    if not left:
        return Reject("a constant divided by the data is not affine")
    if not vector.all():
        return Reject("it divides by zero")
    return Affine(1.0 / vector, zero)
