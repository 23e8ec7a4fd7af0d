"""Granularity: which elements of a tensor share a grid (all, those of a channel, or those of a block)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from qir.errors import QirError
from qir.tensor import Array


@dataclass(frozen=True, slots=True)
class PerTensor:
    """One grid for the whole tensor."""

    axis: ClassVar[None] = None
    size: ClassVar[None] = None

    def rows(self, x: Array) -> tuple[Array, int | None]:
        """Return values and axis of their channels as quantizing schemes take them: as they are, on one grid."""
        return x, None

    def restored(self, rows: Array, shape: tuple[int, ...]) -> Array:  # noqa: ARG002  one of three
        """Return what `rows` gave, in the shape of the tensor again."""
        return rows


@dataclass(frozen=True, slots=True)
class PerChannel:
    """One grid for each index along an axis, counted from the front."""

    axis: int
    size: ClassVar[None] = None

    def __post_init__(self) -> None:
        _check_axis(self.axis)

    def rows(self, x: Array) -> tuple[Array, int | None]:
        """Return values and axis of their channels as quantizing schemes take them: as they are."""
        return x, self.axis

    def restored(self, rows: Array, shape: tuple[int, ...]) -> Array:  # noqa: ARG002  one of three
        """Return what `rows` gave, in the shape of the tensor again."""
        return rows


@dataclass(frozen=True, slots=True)
class PerBlock:
    """One grid for every `size` neighbours along an axis (ONNX's `block_size`), at each place of the other axes."""

    axis: int
    size: int

    def __post_init__(self) -> None:
        _check_axis(self.axis)
        if self.size < 1:
            raise QirError(f"granularity: blocks of {self.size} elements; expected 1 or more")

    def rows(self, x: Array) -> tuple[Array, int | None]:
        """Return values and axis of their channels as quantizing schemes take them: [blocks, size], and 0.

        Raises:
            QirError: the tensor has no such axis.
        """
        from qir.quantizers.blocks import to_rows

        return to_rows(x, self.axis, self.size), 0

    def restored(self, rows: Array, shape: tuple[int, ...]) -> Array:
        """Return what `rows` gave, in the shape of the tensor again."""
        from qir.quantizers.blocks import from_rows

        return from_rows(rows, shape, self.axis, self.size)


Granularity = PerTensor | PerChannel | PerBlock

PER_TENSOR = PerTensor()


def granularity_of(axis: int | None, size: int | None = None) -> Granularity:
    """Return the granularity that the attributes `axis` and `block` of a quantizer name.

    Raises:
        QirError: blocks without an axis, a negative axis, or blocks of no element.
    """
    if axis is None:
        if size is not None:
            raise QirError(f"granularity: blocks of {size} elements without an axis; name the axis they lie along")
        return PER_TENSOR
    return PerChannel(axis) if size is None else PerBlock(axis, size)


def _check_axis(axis: int) -> None:
    if axis < 0:
        raise QirError(f"granularity: axis {axis} is negative; expected an axis counted from the front")
