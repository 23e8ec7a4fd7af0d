"""Grids given by a table of levels."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from qir.errors import QirError
from qir.quantizers import kernels
from qir.quantizers.parameters import SMALLEST_SCALE, Float, QuantParameters, Storage
from qir.quantizers.scales import zeros
from qir.quantizers.scheme import Scheme


def codebook(
    levels: NDArray[np.floating], bits: int, signed: bool, boundaries: NDArray[np.floating] | None = None
) -> QuantParameters:
    """Build a grid from levels; codes are indices.

    Args:
        levels: [channels, n], ascending.
        bits: width.
        signed: whether negative values are represented.
        boundaries: [channels, n - 1] decision thresholds; by default half-way between levels (the nearest level wins).
    """
    table = np.asarray(levels, dtype=np.float64)
    thresholds = (table[:, 1:] + table[:, :-1]) / 2 if boundaries is None else boundaries
    step = (table[:, -1] - table[:, 0]) / max(table.shape[1] - 1, 1)
    with np.errstate(over="ignore"):  # a scale that overflows is refused
        return QuantParameters(
            bits,
            signed,
            scale=np.maximum(step, SMALLEST_SCALE).astype(np.float32),
            zero_point=zeros(len(table)),
            low_code=0,
            high_code=table.shape[1] - 1,
            levels=table.astype(np.float32),
            boundaries=np.asarray(thresholds, dtype=np.float32),
        )


def span_levels(ranges: Float, count: int) -> NDArray[np.float64]:
    """Evenly spaced levels from low to high: [channels, count]."""
    fraction = np.linspace(0.0, 1.0, count)
    low, high = ranges[:, :1].astype(np.float64), ranges[:, 1:].astype(np.float64)
    return low + (high - low) * fraction


def nearest_two_sided(magnitudes: NDArray[np.floating]) -> NDArray[np.float64]:
    """Mirror positive magnitudes [channels, n] (ascending) to levels [channels, 2n]."""
    return np.concatenate([-magnitudes[:, ::-1], magnitudes], axis=1)


@dataclass(frozen=True)
class StoredLevels(Scheme):
    """A scheme whose levels come from data and are stored with the quantizer.

    The stored range is (smallest level, largest level). From a range alone the levels are evenly spaced: the start of
    k-means, and what residual binaries of uniform data give.
    """

    stores_levels: ClassVar[bool] = True
    storage: ClassVar[Storage] = Storage.CODEBOOK

    def _parameters(self, ranges: Float, bits: int, signed: bool, narrow: bool) -> QuantParameters:  # noqa: ARG002
        return codebook(span_levels(ranges, 1 << bits), bits, signed)

    def _fit(self, rows: Float, bits: int, signed: bool, narrow: bool) -> Float:  # noqa: ARG002
        return self._fit_levels(rows, bits, signed)[:, [0, -1]].astype(np.float32)

    def fit_parameters(
        self,
        x: NDArray[np.generic],
        bits: int,
        signed: bool,
        narrow: bool = False,  # noqa: ARG002
        axis: int | None = None,
    ) -> QuantParameters:
        """Choose levels from data.

        Raises:
            QirError: the width does not fit the scheme, or the data are empty or not finite.
        """
        self.check(bits, signed)
        return self._fit_grid(kernels.by_channel(x, axis), bits, signed)

    def _fit_grid(self, rows: Float, bits: int, signed: bool) -> QuantParameters:
        """Choose a grid from data [channels, elements]."""
        return codebook(self._fit_levels(rows, bits, signed), bits, signed)

    def parameters_from_levels(self, levels: NDArray[np.generic], bits: int, signed: bool) -> QuantParameters:
        """Rebuild a grid from stored levels [channels or 1, codes].

        Raises:
            QirError: the levels are not finite, not two-dimensional, or more than the width can index.
        """
        self.check(bits, signed)
        table = np.sort(np.asarray(levels, dtype=np.float32), axis=-1)
        if table.ndim != 2 or not 1 <= table.shape[1] <= 1 << bits or not np.isfinite(table).all():
            raise QirError(
                f"scheme {self.name!r}: levels of shape {table.shape}; expected finite [channels, 1 to {1 << bits}]"
            )
        return codebook(table, bits, signed)

    @abstractmethod
    def _fit_levels(self, rows: Float, bits: int, signed: bool) -> NDArray[np.float64]:
        """Choose levels from data [channels, elements]: [channels, 2**bits], ascending."""
