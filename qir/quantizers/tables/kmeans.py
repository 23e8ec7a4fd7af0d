"""k-means codebook (Han et al., Deep Compression, 2016; HAQ's model-size mode)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from qir.errors import MissingExtraError
from qir.quantizers.parameters import Float
from qir.quantizers.tables.codebook import StoredLevels, span_levels


@dataclass(frozen=True)
class KMeans(StoredLevels):
    """Levels are the centres of 2**b clusters of the values; the nearest centre wins.

    Two starts, the better result counts: centres evenly spaced over the range, and over the ranks of the values.

    Needs scikit-learn for fitting only; stored levels work without.
    """

    name: ClassVar[str] = "kmeans"
    widths: ClassVar[tuple[int, ...]] = tuple(range(1, 9))

    def _fit_levels(self, rows: Float, bits: int, signed: bool) -> NDArray[np.float64]:  # noqa: ARG002
        return np.stack([_centres(row, 1 << bits) for row in rows])


def _centres(row: Float, count: int) -> NDArray[np.float64]:
    """Cluster one channel; fewer distinct values than clusters are represented exactly."""
    try:
        from sklearn.cluster import KMeans as Estimator
    except ImportError as error:
        raise MissingExtraError("scikit-learn", "search") from error
    values, weights = np.unique(row, return_counts=True)
    if len(values) <= count:
        return np.concatenate([values, np.full(count - len(values), values[-1])]).astype(np.float64)
    spaced = span_levels(np.array([[values[0], values[-1]]], dtype=np.float32), count).T
    shares = np.quantile(row.astype(np.float64), (np.arange(count) + 0.5) / count)[:, None]
    fits = [
        Estimator(count, init=start, n_init=1, max_iter=100).fit(
            values[:, None].astype(np.float64), sample_weight=weights
        )
        for start in (spaced, shares)
    ]
    return np.sort(min(fits, key=lambda fit: fit.inertia_).cluster_centers_[:, 0])
