"""Values of the integer reference: codes on a grid, results that wait for their output grid, and requantization.

A result of integer arithmetic has no codes before its QuantizeLinear names scale and zero point. Until then it is
`Pending`: it knows its exact integers and how they become codes, in the float32 steps of ONNX Runtime's fused kernels
or on integers alone (`integer_reference_requantization`).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, TypeAlias

import numpy as np

from qir.backends.integer.requantization import Requantization, Term, requantized, term
from qir.errors import DataError
from qir.tensor import Array

INT32_LIMIT = 2**31
WIDE_LIMIT = 2**53
"""Largest sum of products of operands wider than 8 bits: float64 holds every integer below it."""


@dataclass(frozen=True, eq=False)
class Grid:
    """Integer codes with their grid: value = (codes - zero_point) * scale.

    Attributes:
        codes: int32, any shape.
        scale: float32, broadcastable to `codes`.
        zero_point: int32, broadcastable to `codes`.
        bits: width of the codes' element type.
        signed: whether the codes' element type is signed.
    """

    codes: Array
    scale: Array
    zero_point: Array
    bits: int = 8
    signed: bool = False

    def centred(self) -> Array:
        """Return codes minus zero point: int32."""
        return np.asarray(self.codes - self.zero_point, np.int32)

    def real(self) -> Array:
        """Return the float32 values, as DequantizeLinear gives them."""
        return np.asarray(self.centred().astype(np.float32) * self.scale, np.float32)

    def unsigned(self) -> Grid:
        """Return the same values in uint8 codes in place of int8 codes."""
        return replace(self, codes=self.codes + 128, zero_point=self.zero_point + 128, signed=False)

    def transposed(self) -> Grid:
        """Return the grid of the transposed matrix."""
        scale, zero = (parameter.T if parameter.ndim > 1 else parameter for parameter in (self.scale, self.zero_point))
        return replace(self, codes=self.codes.T, scale=scale, zero_point=zero)

    def per_tensor(self) -> tuple[np.float32, int] | None:
        """Scale and zero point when there is one of each, else None."""
        if self.scale.size != 1 or self.zero_point.size != 1:
            return None
        return np.float32(self.scale.reshape(-1)[0]), int(self.zero_point.reshape(-1)[0])


Round: TypeAlias = Callable[[np.float32, int], Array]
"""From output scale and zero point to rounded codes before saturation, float32 or float64."""


@dataclass(frozen=True, eq=False)
class Pending:
    """The result of integer arithmetic before its output grid is known.

    Attributes:
        round_to: codes before saturation for an output grid.
        real: the float32 values, for a float consumer.
        terms: the exact summands, for requantization on integers alone.
        low, high: bounds of the values (Relu, Clip); they become bounds of the codes.
    """

    round_to: Round
    real: Callable[[], Array]
    terms: Callable[[], tuple[Term, ...]]
    low: float = -np.inf
    high: float = np.inf

    def clipped(self, low: float, high: float) -> Pending:
        """Return the result of a Relu or Clip."""
        bounded = partial(_clip, self.real, low, high)
        return replace(self, real=bounded, low=max(self.low, low), high=min(self.high, high))

    def quantize(
        self, scale: np.float32, zero_point: int, dtype: np.dtype[Any], kind: Requantization, where: str
    ) -> Array:
        """Return codes of an output grid with saturation to `dtype`: int32; `where` names the node in messages."""
        if kind == "float32":
            codes = self.round_to(scale, zero_point)
        else:
            codes = requantized(self.terms(), scale, kind, where) + zero_point
        limits = integer_limits(dtype)
        low = max(float(limits.min), float(np.rint(np.float32(self.low) / scale)) + zero_point)
        high = min(float(limits.max), float(np.rint(np.float32(self.high) / scale)) + zero_point)
        return np.asarray(np.clip(codes, low, high), np.int32)


def _clip(real: Callable[[], Array], low: float, high: float) -> Array:
    return np.clip(real(), np.float32(low), np.float32(high))


def integer_limits(dtype: np.dtype[Any]) -> Any:
    """Return the smallest and largest integer of an element type, those of 2 and 4 bits included."""
    if dtype.kind in "iu":
        return np.iinfo(dtype)
    import ml_dtypes

    return ml_dtypes.iinfo(dtype)  # type: ignore[no-untyped-call]


def accumulated(total: Array, scales: tuple[Array, Array], where: str, *, wide: bool = False) -> Pending:
    """Return the result of a sum of products: q = rint(float32(acc) · float32(s_x·s_w / s_y)) + zp, half to even.

    Args:
        total: exact integers, any integer or float64 array.
        scales: float32 s_x [] and s_w, broadcastable to `total`.
        where: the node, for the message.
        wide: operands have more than 8 bits: no int32 kernel computes the sum, it may reach 2^53.

    Raises:
        DataError: a sum leaves int32, so integer kernels would wrap around.
    """
    limit, label = (WIDE_LIMIT, "53 bits") if wide else (INT32_LIMIT, "int32")
    if total.size and max(-float(total.min()), float(total.max()) + 1) > limit:
        raise DataError(
            f"node {where!r}: an accumulator reaches {np.abs(total).max():.0f} and leaves {label}; "
            "use fewer bits for its weights or input, or split the layer"
        )
    values, scale = total.astype(np.float32), np.asarray(scales[0] * scales[1], np.float32)

    def round_to(output_scale: np.float32, zero_point: int) -> Array:
        return np.asarray(np.rint(values * (scale / output_scale).astype(np.float32)) + zero_point)

    return Pending(
        round_to, lambda: np.asarray(values * scale, np.float32), lambda: (term(total, scales[0], scales[1]),)
    )


def added(first: Grid, second: Grid) -> Pending | None:
    """Return the sum of two tensors: ratios of scales in float32, one fused multiply-add each.

    None for grids per channel.

    q = rint(fma(a, s_a/s_y, fma(b, s_b/s_y, zp_y - fma(s_a/s_y, zp_a, s_b/s_y·zp_b)))).
    """
    left, right = first.per_tensor(), second.per_tensor()
    if left is None or right is None:
        return None
    (scale_a, zero_a), (scale_b, zero_b) = left, right

    def round_to(scale: np.float32, zero_point: int) -> Array:
        ratio_a, ratio_b = np.float32(scale_a / scale), np.float32(scale_b / scale)
        zeros = _fma(np.asarray(zero_a), ratio_a, np.asarray(ratio_b * np.float32(zero_b)))
        fixed = np.asarray(np.float32(zero_point) - zeros)
        return np.rint(_fma(first.codes, ratio_a, _fma(second.codes, ratio_b, fixed)))

    return Pending(
        round_to,
        lambda: first.real() + second.real(),
        lambda: (term(first.centred(), scale_a), term(second.centred(), scale_b)),
    )


def multiplied(first: Grid, second: Grid) -> Pending | None:
    """Return the product of two tensors: q = rint(float32(a·b) · (s_a·s_b/s_y) + zp); None for grids per channel."""
    left, right = first.per_tensor(), second.per_tensor()
    if left is None or right is None:
        return None
    exact = first.centred().astype(np.int64) * second.centred()
    product = exact.astype(np.float32)

    def round_to(scale: np.float32, zero_point: int) -> Array:
        ratio = np.float32(np.float32(left[0] * right[0]) / scale)
        return np.asarray(np.rint(product * ratio + np.float32(zero_point)))

    return Pending(round_to, lambda: first.real() * second.real(), lambda: (term(exact, left[0], right[0]),))


def averaged(values: Array, total: Array, scale: Array, count: Array) -> Pending:
    """Return a float32 mean of window values: q = rint(mean / s_y + zp).

    Args:
        values: float32 means.
        total: exact integer sums of the windows.
        scale: float32 scale of the operand.
        count: elements of each window.
    """

    def round_to(output_scale: np.float32, zero_point: int) -> Array:
        return np.asarray(np.rint(values / output_scale + np.float32(zero_point)))

    return Pending(round_to, lambda: values, lambda: (term(total, scale, count=count),))


def rescaled(*grids: Grid, axis: int = 0) -> Pending:
    """Return codes of one grid, or of several joined along an axis, for another grid: q = rint(value / s_y) + zp."""
    values = np.concatenate([grid.real() for grid in grids], axis) if len(grids) > 1 else grids[0].real()

    def terms() -> tuple[Term, ...]:
        if len(grids) == 1:
            return (term(grids[0].centred(), grids[0].scale),)
        scales = [np.broadcast_to(grid.scale, grid.codes.shape) for grid in grids]
        longest = [slice(0, 1)] * values.ndim
        longest[axis] = slice(None)
        factor = np.concatenate([scale[tuple(longest)] for scale in scales], axis)
        return (term(np.concatenate([grid.centred() for grid in grids], axis), factor),)

    return Pending(lambda scale, zero_point: np.asarray(np.rint(values / scale) + zero_point), lambda: values, terms)


def global_average(total: Array, scale: np.float32, count: int) -> Pending:
    """Return a mean over the whole image: exact integer sum, then q = rint(float32(sum) · (s_x / (s_y·count))) + zp."""
    values = total.astype(np.float32)

    def round_to(output_scale: np.float32, zero_point: int) -> Array:
        multiplier = np.float32(scale / np.float32(output_scale * np.float32(count)))
        return np.asarray(np.rint(values * multiplier) + zero_point)

    return Pending(
        round_to,
        lambda: np.asarray(values * np.float32(scale / np.float32(count)), np.float32),
        lambda: (term(total, scale, count=count),),
    )


def on_grid(
    value: Grid | Pending, scale: np.float32, zero_point: int, dtype: np.dtype[Any], kind: Requantization, where: str
) -> Array:
    """Return the codes of a value on an output grid, of the element type `dtype`.

    `where` names the node in messages.
    """
    if isinstance(value, Grid):
        if value.per_tensor() == (scale, zero_point):
            limits = integer_limits(dtype)
            return np.asarray(np.clip(value.codes, limits.min, limits.max), dtype)
        value = rescaled(value)
    return np.asarray(value.quantize(scale, zero_point, dtype, kind, where), dtype)


def quantized(real: Array, scale: Array, zero_point: Array, dtype: np.dtype[Any]) -> Array:
    """QuantizeLinear of float32 values: clip(rint(x / s) + zp), true division, int32 codes."""
    limits = integer_limits(dtype)
    codes = np.rint(real.astype(np.float32) / scale) + zero_point
    return np.asarray(np.clip(codes, limits.min, limits.max), np.int32)


def _fma(factor: Array, ratio: np.float32, addend: Array) -> Array:
    """float32 fused multiply-add: the product of two float32 is exact in float64."""
    return (factor.astype(np.float64) * np.float64(ratio) + addend.astype(np.float64)).astype(np.float32)
