"""Files that appear whole or not at all: written under a temporary name in their folder, then renamed.

Temporary names tell the machine and the process that writes them: what a killed process left is removed by the next
one that writes the same file.
"""

from __future__ import annotations

import contextlib
import filecmp
import hashlib
import os
import platform
import re
import secrets
import shutil
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from qir.errors import QirError

STALE_SECONDS = 24 * 3600.0
"""Temporary files of another machine, or of processes that cannot be asked for, are stale after so long."""

_MACHINE = hashlib.sha256(platform.node().encode()).hexdigest()[:8]


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
        raise error(f"{path}: cannot be written: {path.parent} is not a folder, and cannot be made one") from found
    if not os.access(path.parent, os.W_OK):
        raise error(f"{path}: cannot be written: no permission to write into {path.parent}")


@contextlib.contextmanager
def atomic_write(path: str | os.PathLike[str], error: type[QirError] = QirError) -> Iterator[Path]:
    """Give a temporary name next to `path` to write to; the file gets its own name when the block ends well.

    When it does not, an older file stays, and nothing else is left.

    Args:
        path: the file; its folder is made.
        error: what is raised when it cannot be written.

    Raises:
        QirError: `error`; as `make_folder`, or the disk is full.
    """
    make_folder(path, error)
    path = Path(path)
    temporary = _temporary(path)
    try:
        yield temporary
        temporary.replace(path)
    except OSError as found:
        raise error(f"{path}: cannot be written: {found.strerror or found}") from found
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def temporary_folder(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Give a folder next to `path` for files that `rename_all` moves; it is removed when the block ends.

    Raises:
        OSError: the folder cannot be made.
    """
    folder = _temporary(Path(path))
    folder.mkdir()
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def rename_all(folder: Path, finals: Sequence[Path]) -> None:
    """Give files of a temporary folder their names, in order: all, or after an error none.

    The last one is what readers begin with: as long as it is the old one, the older files that it names count. A
    process that is killed in between leaves new files next to an old last one, which readers find out by its hashes.

    Args:
        folder: where the files lie, under their final names, on the file system of the final ones.
        finals: their paths.

    Raises:
        OSError: a file cannot be renamed; the older files are back.
    """
    kept = folder / "older"
    kept.mkdir()
    done: list[Path] = []
    try:
        for final in finals:
            if final.exists():
                _keep(final, kept / final.name)
            done.append(final)
            _move(folder / final.name, final)
    except BaseException:
        for final in reversed(done):
            _put_back(kept / final.name, final)
        raise


def _move(path: Path, final: Path) -> None:
    """Rename a file; Windows replaces none that is open or mapped, but one of the same content may stay."""
    try:
        path.replace(final)
    except PermissionError:
        if not (final.is_file() and filecmp.cmp(path, final, shallow=False)):
            raise


def _keep(path: Path, copy: Path) -> None:
    """Give a file a second name, or make a copy where the file system has no second names."""
    try:
        copy.hardlink_to(path)
    except OSError:
        shutil.copy2(path, copy)


def _put_back(copy: Path, final: Path) -> None:
    with contextlib.suppress(OSError):
        if copy.exists():
            copy.replace(final)
        else:
            final.unlink(missing_ok=True)


def _temporary(path: Path) -> Path:
    """Return a name that no other process uses; what earlier ones left under such names is removed."""
    start = f".{path.name[:100]}."
    for entry in _left(path.parent, start):
        with contextlib.suppress(OSError):
            if entry.is_dir(follow_symlinks=False):
                shutil.rmtree(entry.path, ignore_errors=True)
            else:
                Path(entry.path).unlink()
    return path.with_name(f"{start}{_MACHINE}-{os.getpid()}-{secrets.token_hex(8)}")


def _left(folder: Path, start: str) -> list[os.DirEntry[str]]:
    """Temporary files and folders of processes that have ended."""
    form = re.compile(re.escape(start) + r"(?P<machine>[0-9a-f]{8})-(?P<process>\d{1,10})-[0-9a-f]{16}")
    try:
        with os.scandir(folder) as entries:
            matches = [(entry, form.fullmatch(entry.name)) for entry in entries]
    except OSError:
        return []
    return [e for e, match in matches if match and _is_stale(e, match["machine"], int(match["process"]))]


def _is_stale(entry: os.DirEntry[str], machine: str, process: int) -> bool:
    if machine == _MACHINE and os.name == "posix":
        try:
            os.kill(process, 0)
        except ProcessLookupError:
            return True
        except (OSError, OverflowError):
            return False
        return False
    return is_old(Path(entry.path))


def is_old(path: Path) -> bool:
    """Return whether nothing was written to a file or folder for `STALE_SECONDS`."""
    try:
        return time.time() - path.lstat().st_mtime > STALE_SECONDS
    except OSError:
        return False
