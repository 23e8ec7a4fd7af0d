"""Files of a folder and their classes: the folder's own, or one folder a class."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from itertools import chain, zip_longest
from pathlib import Path

import numpy as np

from qir.errors import DataError
from qir.tensor import Array

CLASS_NAMES = "classes.txt"
"""File of a folder of classes: the name of each class, a line each, in the order of the labels."""


@dataclass(frozen=True)
class Files:
    """Files in the order in which they are read.

    Attributes:
        paths: the files; of class folders, one of each class after the other, so that any first part holds all.
        labels: int64, one a file; None without class folders.
        classes: names of the folders by label; empty without class folders, or where they are numbers.
    """

    paths: tuple[Path, ...]
    labels: Array | None = None
    classes: tuple[str, ...] = ()

    def first(self, most: int | None) -> Files:
        """Return at most so many files: the first ones of class folders, evenly spread ones of a plain folder."""
        if most is None or most >= len(self.paths):
            return self
        if self.labels is not None:
            return Files(self.paths[:most], self.labels[:most], self.classes)
        places = np.linspace(0, len(self.paths) - 1, most).round().astype(int)
        return Files(tuple(self.paths[place] for place in places))


def files_in(folder: Path, suffixes: Collection[str]) -> Files:
    """Return the files of a folder that end in one of the suffixes, or those of its class folders.

    Labels are the numbers that the folders are called, the lines of `classes.txt` that name them, or their place in
    alphabetical order. Names that begin with a point are left out.

    Raises:
        DataError: there are no such files, they lie next to class folders that hold some, or folders nest deeper.
    """
    try:
        entries = sorted(path for path in folder.iterdir() if not path.name.startswith("."))
    except OSError as error:
        raise DataError(f"{folder}: cannot be read: {error.strerror or error}") from error
    plain = _matching(entries, suffixes)
    inner = {entry: found for entry in entries if entry.is_dir() and (found := _matching(entry.iterdir(), suffixes))}
    if plain and inner:
        raise DataError(
            f"{folder}: holds files ({plain[0].name}) and folders with files ({next(iter(inner)).name}): expected "
            "files, or one folder a class"
        )
    if plain:
        return Files(tuple(plain))
    if inner:
        return _of_classes(folder, inner)
    deeper = [entry for entry in entries if entry.is_dir() and any(path.is_dir() for path in entry.iterdir())]
    hint = f": it holds folders of folders, give one of {', '.join(path.name for path in deeper)}" if deeper else ""
    raise DataError(f"{folder}: holds no files that end in {', '.join(sorted(suffixes))}{hint}")


def _matching(entries: object, suffixes: Collection[str]) -> list[Path]:
    return sorted(
        path
        for path in entries  # type: ignore[attr-defined]
        if path.suffix.lower() in suffixes and not path.name.startswith(".") and path.is_file()
    )


def _of_classes(folder: Path, inner: dict[Path, list[Path]]) -> Files:
    numbers, classes = _numbered(folder, [entry.name for entry in inner])
    each = [[(path, number) for path in paths] for number, paths in zip(numbers, inner.values(), strict=True)]
    order = [found for found in chain.from_iterable(zip_longest(*each)) if found is not None]
    return Files(tuple(path for path, _ in order), np.array([number for _, number in order], np.int64), classes)


def _numbered(folder: Path, names: list[str]) -> tuple[list[int], tuple[str, ...]]:
    """Return the label of each class folder, and the names of the classes."""
    if all(name.isdecimal() for name in names):
        return [int(name) for name in names], ()
    listed = folder / CLASS_NAMES
    known = listed.read_text(encoding="utf-8").split("\n") if listed.is_file() else names
    known = [line.strip() for line in known if line.strip()]
    if missing := [name for name in names if name not in known]:
        raise DataError(
            f"{listed}: lacks the class {missing[0]!r}: give one folder's name a line, in the network's order"
        )
    return [known.index(name) for name in names], tuple(known)
