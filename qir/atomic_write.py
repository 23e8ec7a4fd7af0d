"""Files that appear whole or not at all: written under a temporary name in their folder, then renamed."""

from __future__ import annotations

import contextlib
import os
import secrets
from collections.abc import Iterator
from pathlib import Path

from qir.errors import QirError


def make_folder(path: str | os.PathLike[str], error: type[QirError] = QirError) -> None:
    """Make the folder of a file that is going to be written, and those above it.

    Work of hours asks before it begins, so that it does not end at a path that cannot be written.

    Args:
        path: the file.
        error: what is raised when it cannot be written there.

    Raises:
        QirError: `error`; `path` is a folder, a file stands where a folder should, or nothing may be written there.
    """
    path = Path(path)
    if path.is_dir():
        raise error(f"{path}: is a folder: the path of a file is expected")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as found:
        raise error(f"{path}: cannot be written: {path.parent} is no folder, and cannot be made one") from found
    if not os.access(path.parent, os.W_OK):
        raise error(f"{path}: cannot be written: no permission to write into {path.parent}")


@contextlib.contextmanager
def atomic_write(path: str | os.PathLike[str], error: type[QirError] = QirError) -> Iterator[Path]:
    """Give a temporary name beside `path` to write to; the file gets its own name when the block ends well.

    When it does not, an older file stays, and nothing else is left.

    Args:
        path: the file; its folder is made.
        error: what is raised when it cannot be written.

    Raises:
        QirError: `error`; as `make_folder`, or the disk is full.
    """
    make_folder(path, error)
    path = Path(path)
    temporary = path.with_name(f".{path.name[:100]}.{secrets.token_hex(8)}")
    try:
        yield temporary
        temporary.replace(path)
    except OSError as found:
        raise error(f"{path}: cannot be written: {found.strerror or found}") from found
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
