"""Examples of ops: one node with operands, run by the tests through every executor."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from qir.tensor import Array


@dataclass(frozen=True, slots=True)
class Operand:
    """One operand of an example.

    Attributes:
        shape: dimensions.
        kind: `normal`, `uniform` (low to high), `integers` (low inclusive, high exclusive) or `given`.
        low, high: bounds of `uniform` and `integers`.
        values: the values of a `given` operand, which is a constant of the example's graph.
        dtype: numpy name of the element type.
    """

    shape: tuple[int, ...] = ()
    kind: str = "normal"
    low: float = -1.0
    high: float = 1.0
    values: Any = None
    dtype: str = "float32"

    @property
    def is_constant(self) -> bool:
        """Whether the operand is a constant and not an input."""
        return self.kind == "given"

    def array(self, generator: np.random.Generator) -> Array:
        """Return the operand's values."""
        if self.kind == "given":
            return np.asarray(self.values, self.dtype)
        if self.kind == "normal":
            return np.asarray(generator.standard_normal(self.shape)).astype(self.dtype)
        if self.kind == "uniform":
            return np.asarray(generator.uniform(self.low, self.high, self.shape)).astype(self.dtype)
        return np.asarray(generator.integers(int(self.low), int(self.high), self.shape)).astype(self.dtype)


@dataclass(frozen=True, slots=True)
class Example:
    """One node.

    Attributes:
        operands: operands, None where an optional one is left out.
        attributes: attributes as plain Python values.
        results: number of results.
        opset: version of ONNX's operator set.
        label: what is special about it.
    """

    operands: tuple[Operand | None, ...] = ()
    attributes: Mapping[str, Any] = field(default_factory=dict)
    results: int = 1
    opset: int = 21
    label: str = ""


def normal(*shape: int) -> Operand:
    """Return standard normal float32 values."""
    return Operand(shape)


def uniform(low: float, high: float, *shape: int) -> Operand:
    """Return uniform float32 values between `low` and `high`."""
    return Operand(shape, "uniform", low, high)


def integers(low: int, high: int, *shape: int, dtype: str = "int64") -> Operand:
    """Return integers from `low` to `high` - 1."""
    return Operand(shape, "integers", low, high, dtype=dtype)


def booleans(*shape: int) -> Operand:
    """Return true or false with equal probability."""
    return Operand(shape, "integers", 0, 2, dtype="bool")


def given(values: npt.ArrayLike, dtype: str = "int64") -> Operand:
    """Return a constant."""
    return Operand(np.shape(values), "given", values=values, dtype=dtype)


def example(
    *operands: Operand | None, results: int = 1, opset: int = 21, label: str = "", **attributes: Any
) -> Example:
    """Return an example whose attributes are keyword arguments."""
    return Example(operands, attributes, results, opset, label)
