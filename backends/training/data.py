"""Samples and labels as training takes them, and the loss between outputs and labels."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812 - the name that PyTorch's own documentation uses

from qir.errors import DataError
from qir.tensor import Array


def training_arrays(images: Any, labels: Any) -> tuple[Array, Array]:
    """Return images and labels as arrays: floats become float32, whole numbers of labels int64.

    Args:
        images: samples [N, …].
        labels: classes, integers [N] or one per place [N, …], or probabilities, floats [N, classes].

    Raises:
        DataError: there are none, or not as many of the one as of the other, or no numbers.
    """
    x, y = np.asarray(images), np.asarray(labels)
    if not x.ndim or not y.ndim or not len(x) or len(x) != len(y):
        raise DataError(f"training got images {x.shape} and labels {y.shape}: expected as many of both, at least one")
    if x.dtype.kind not in "fiu" or y.dtype.kind not in "fiu":
        raise DataError(f"training got images of {x.dtype} and labels of {y.dtype}: expected numbers")
    if y.dtype.kind == "f" and y.ndim < 2:
        raise DataError(f"training got labels of {y.dtype}: expected integers, or probabilities [images, classes]")
    return (
        np.asarray(x, np.float32) if x.dtype.kind == "f" else x,
        np.asarray(y, np.float32 if y.dtype.kind == "f" else np.int64),
    )


def cross_entropy(outputs: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Cross-entropy of a network's first output with the labels.

    Raises:
        DataError: the labels do not fit the output.
    """
    try:
        return F.cross_entropy(outputs, labels)
    except (IndexError, RuntimeError, ValueError) as error:
        raise DataError(
            f"labels {tuple(labels.shape)} from {labels.min().item()} to {labels.max().item()} do not fit the output "
            f"{tuple(outputs.shape)} of the network: expected classes along its second axis ({error})"
        ) from error
