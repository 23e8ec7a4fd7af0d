"""Images or texts with labels, as every reader of this package returns them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from qir.errors import DataError

if TYPE_CHECKING:
    from numpy.typing import NDArray


@dataclass(frozen=True, slots=True, eq=False)
class Samples:
    """Images or texts of one split and their labels.

    Attributes:
        images: float32 [N, C, H, W], pixel values divided by 255, so between 0 and 1; or of texts the numbers of their
            words, int64 [N, length].
        labels: int64 [N], class numbers from 0.
        split: name of the split, for tables and result files.

    Raises:
        DataError: shapes or element types differ from the above.
    """

    images: NDArray[Any]
    labels: NDArray[np.int64]
    split: str

    def __post_init__(self) -> None:
        if (self.images.dtype.name, self.images.ndim) not in {("float32", 4), ("int64", 2)}:
            found = f"{self.images.dtype} {list(self.images.shape)}"
            raise DataError(
                f"images of split {self.split!r}: found {found}; expected float32 [N, C, H, W] or int64 [N, length]"
            )
        if self.labels.dtype != np.int64 or self.labels.shape != self.images.shape[:1]:
            found = f"{self.labels.dtype} {list(self.labels.shape)}"
            raise DataError(f"labels of split {self.split!r}: found {found}; expected int64 [{len(self.images)}]")

    def __len__(self) -> int:
        return len(self.labels)

    def take(self, count: int) -> Samples:
        """Return the first `count` samples (all of them if there are fewer), as views."""
        return Samples(self.images[:count], self.labels[:count], self.split)

    @staticmethod
    def from_pixels(pixels: NDArray[np.uint8], labels: NDArray[np.integer], split: str) -> Samples:
        """Return samples from uint8 pixels [N, C, H, W]; each is divided by 255 in float32."""
        return Samples(pixels.astype(np.float32) / np.float32(255.0), labels.astype(np.int64), split)
