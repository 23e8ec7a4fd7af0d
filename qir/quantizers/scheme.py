"""The interface of a quantizing scheme."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from qir.errors import QirError
from qir.quantizers import kernels
from qir.quantizers.parameters import Float, Int, QuantParameters, Storage


@dataclass(frozen=True)
class Scheme(ABC):
    """One quantizing scheme: how a range and a width become a grid, and how a range is fitted to data.

    A range is a pair (low, high) per channel. What the pair means is the scheme's matter (for most the smallest and
    largest value that is not clipped); it is all that a quantizer stores per candidate width. Schemes whose levels are
    not determined by a range set `stores_levels` and are rebuilt by `parameters_from_levels`.
    """

    name: ClassVar[str]
    widths: ClassVar[tuple[int, ...]]
    storage: ClassVar[Storage]
    signedness: ClassVar[frozenset[bool]] = frozenset({True, False})
    stores_levels: ClassVar[bool] = False

    def parameters(self, ranges: NDArray[np.generic], bits: int, signed: bool, narrow: bool = False) -> QuantParameters:
        """Turn ranges into a grid per channel.

        Args:
            ranges: [channels or 1, 2] (low, high); finite, low <= high.
            bits: width, one of `widths`.
            signed: whether negative values are represented.
            narrow: leave the most negative code out, so that the grid is symmetric.

        Raises:
            QirError: the width, the signedness or the ranges do not fit the scheme.
        """
        self.check(bits, signed)
        pairs = np.asarray(ranges, dtype=np.float32)
        if pairs.ndim != 2 or pairs.shape[1] != 2 or not np.isfinite(pairs).all() or (pairs[:, 0] > pairs[:, 1]).any():
            raise QirError(
                f"scheme {self.name!r}: ranges of shape {pairs.shape}, {pairs.tolist()[:4]}; expected finite "
                "[channels, 2] with low <= high: calibrate the quantizer again"
            )
        with np.errstate(over="ignore"):  # a scale that overflows is refused by `QuantParameters`
            return self._parameters(pairs, bits, signed, narrow)

    @abstractmethod
    def _parameters(self, ranges: Float, bits: int, signed: bool, narrow: bool) -> QuantParameters:
        """Turn checked ranges into a grid."""

    def fit(
        self, x: NDArray[np.generic], bits: int, signed: bool, narrow: bool = False, axis: int | None = None
    ) -> Float:
        """Choose ranges from data: float32 [channels or 1, 2].

        Args:
            x: the data, any shape.
            bits: width, one of `widths`.
            signed: whether negative values are represented.
            narrow: leave the most negative code out.
            axis: axis of the channels, None for one range.

        Raises:
            QirError: the width or the signedness do not fit the scheme, or the data are empty or not finite.
        """
        self.check(bits, signed)
        with np.errstate(over="ignore"):  # a range that overflows is refused by `parameters`
            return self._fit(kernels.by_channel(x, axis), bits, signed, narrow)

    def _fit(self, rows: Float, bits: int, signed: bool, narrow: bool) -> Float:  # noqa: ARG002  overridden
        """Choose ranges from data [channels, elements]: smallest and largest value."""
        return np.stack([rows.min(axis=1), rows.max(axis=1)], axis=1)

    def fit_parameters(
        self, x: NDArray[np.generic], bits: int, signed: bool, narrow: bool = False, axis: int | None = None
    ) -> QuantParameters:
        """Choose a grid from data; for schemes that store levels this is more than `parameters(fit(x))` can give.

        Raises:
            QirError: as `fit` and `parameters`.
        """
        return self.parameters(self.fit(x, bits, signed, narrow, axis), bits, signed, narrow)

    def parameters_from_levels(
        self,
        levels: NDArray[np.generic],  # noqa: ARG002  overridden
        bits: int,  # noqa: ARG002
        signed: bool,  # noqa: ARG002
    ) -> QuantParameters:
        """Rebuild a grid from its stored levels.

        Args:
            levels: [channels or 1, codes].
            bits: width, one of `widths`.
            signed: whether negative values are represented.

        Raises:
            QirError: the scheme stores no levels, or there are more than the width can index.
        """
        raise QirError(f"scheme {self.name!r}: its grid follows from range and bits; it stores no levels")

    def quantize(self, x: NDArray[np.generic], parameters: QuantParameters, axis: int | None = None) -> Int:
        """Map values to codes, see `qir.quantizers.kernels.quantize`."""
        return kernels.quantize(x, parameters, axis)

    def dequantize(self, codes: NDArray[np.integer], parameters: QuantParameters, axis: int | None = None) -> Float:
        """Map codes to values, see `qir.quantizers.kernels.dequantize`."""
        return kernels.dequantize(codes, parameters, axis)

    def fake_quantize(self, x: NDArray[np.generic], parameters: QuantParameters, axis: int | None = None) -> Float:
        """Replace every value by the level of its code: float32, the shape of `x`."""
        return kernels.fake_quantize(x, parameters, axis)

    def grid(self, parameters: QuantParameters) -> Float:
        """List every level: float32 [channels or 1, codes], ascending."""
        return kernels.grid(parameters)

    def check(self, bits: int, signed: bool) -> None:
        """Refuse a width or signedness that the scheme does not have.

        Raises:
            QirError: names the scheme and what it has.
        """
        if bits not in self.widths:
            raise QirError(f"scheme {self.name!r}: {bits} bits; expected one of {list(self.widths)}")
        if signed not in self.signedness:
            kind = "signed" if signed else "unsigned"
            raise QirError(f"scheme {self.name!r}: has no {kind} grid; choose another scheme for this tensor")
