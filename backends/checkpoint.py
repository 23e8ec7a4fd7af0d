"""Checkpoints of training runs."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import Any

import torch

from qir.errors import DataError


def _digest(identity: str) -> str:
    return hashlib.sha256(identity.encode()).hexdigest()


def save_checkpoint(path: Path, identity: str, state: dict[str, Any]) -> None:
    """Write the state of a run atomically.

    Args:
        path: the file.
        identity: text that only runs share that may continue each other.
        state: tensors and plain Python values.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    torch.save({"identity": _digest(identity), **state}, temporary)
    temporary.replace(path)


def load_checkpoint(path: Path, identity: str) -> dict[str, Any] | None:
    """The state of a run, None when there is no file.

    Raises:
        DataError: the file is no checkpoint, or belongs to another run.
    """
    if not path.exists():
        return None
    try:
        state: dict[str, Any] = torch.load(path, weights_only=True)
        known = state.pop("identity")
    except Exception as error:
        raise DataError(f"checkpoint {path}: is no checkpoint of a retraining ({error}); delete it") from error
    if known != _digest(identity):
        raise DataError(
            f"checkpoint {path}: belongs to another network, policy or protocol; delete it or name another file"
        )
    return state
