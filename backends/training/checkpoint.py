"""Checkpoints of training runs."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import torch

from qir.errors import DataError
from qir.support.atomic_write import atomic_write


def _digest(identity: str) -> str:
    return hashlib.sha256(identity.encode()).hexdigest()


def save_checkpoint(path: Path, identity: str, state: dict[str, Any]) -> None:
    """Write the state of a run atomically.

    Args:
        path: the file.
        identity: text that only runs share that may continue each other.
        state: tensors and plain Python values.

    Raises:
        DataError: the file cannot be written.
    """
    with atomic_write(path, DataError) as temporary:
        try:
            torch.save({"identity": _digest(identity), **state}, temporary)
        except RuntimeError as error:  # torch's writer of archives says so when a disk is full
            raise DataError(f"checkpoint {path}: cannot be written: {str(error).splitlines()[0]}; make room") from error


def load_checkpoint(path: Path, identity: str) -> dict[str, Any] | None:
    """Return the state of a run, None when there is no file (then the folder for it is made).

    Raises:
        DataError: the file is not a checkpoint, or belongs to another run.
    """
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        return None
    try:
        state: dict[str, Any] = torch.load(path, weights_only=True)
        known = state.pop("identity")
    except Exception as error:
        raise DataError(f"checkpoint {path}: is not a checkpoint of a retraining ({error}); delete it") from error
    if known != _digest(identity):
        raise DataError(
            f"checkpoint {path}: belongs to another network, policy, protocol or data; delete it or name another file"
        )
    return state
