"""Things of one kind by name: those of qir, those of a program, and those that other packages bring.

A thing of another package is an entry point of the kind's group, for example a pass:

    [project.entry-points."qir.passes"]
    my-pass = "my_package.my_module:MyPass"
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator, Mapping
from importlib.metadata import EntryPoint, entry_points
from typing import Any, Generic, TypeVar, cast

from qir.errors import QirError
from qir.support.nearest import nearest

T = TypeVar("T")


class Registry(Generic[T]):
    """Things of one kind by name; a name of qir or of the program comes before an entry point of the same name.

    `registry[name]` is the thing, iteration gives all names: those known here in their order, then those of other
    packages. Nothing is imported before it is asked for.

    Args:
        kind: what a thing is called in messages, such as `pass`.
        group: entry points that belong to it.
        own: name → the thing, or the text `module:name` of where it is.
        accepts: whether something is of this kind.
        expected: what `accepts` asks for, in words.
        error: raised for names that are not known and for things of another kind.
    """

    def __init__(
        self,
        kind: str,
        group: str,
        own: Mapping[str, T | str],
        *,
        accepts: Callable[[Any], bool],
        expected: str,
        error: type[QirError] = QirError,
    ) -> None:
        self.kind = kind
        self.group = group
        self._own: dict[str, T | str] = dict(own)
        self._accepts = accepts
        self._expected = expected
        self._error = error

    def __getitem__(self, name: str) -> T:
        """Return the thing with this name.

        Raises:
            QirError: there is none, and the message names the nearest; or an entry point cannot be imported, or is not
                of this kind.
        """
        if name in self._own:
            found = self._own[name]
            if isinstance(found, str):
                module, _, attribute = found.partition(":")
                found = self._own[name] = cast("T", getattr(importlib.import_module(module), attribute))
            return found
        for point in entry_points(group=self.group, name=name):
            return self._loaded(point)
        raise self._error(f"{self.kind} {name!r} is unknown: {nearest(str(name), self)}")

    def __iter__(self) -> Iterator[str]:
        """Return all names."""
        brought = {point.name for point in entry_points(group=self.group)}
        return iter([*self._own, *sorted(brought - self._own.keys())])

    def __contains__(self, name: object) -> bool:
        """Return whether a thing has this name."""
        return name in self._own or name in set(self)

    def add(self, name: str, thing: T) -> None:
        """Make a thing known in this program; one that was defined anew, as in a notebook, replaces its old self.

        Raises:
            QirError: it is not of this kind, or the name is taken.
        """
        if not self._accepts(thing):
            raise self._error(f"{self.kind} {name!r}: {thing!r} is not {self._expected}")
        known = self._own.get(name)
        if known is not None and _origin(known) != _origin(thing):
            raise self._error(f"{self.kind} {name!r}: the name is taken by {known!r}; choose another name")
        self._own[name] = thing

    def _loaded(self, point: EntryPoint) -> T:
        where = f"{self.kind} {point.name!r}, entry point {point.value!r}"
        try:
            found = point.load()
        except Exception as error:
            raise self._error(f"{where}: {type(error).__name__}: {error}") from error
        if not self._accepts(found):
            raise self._error(f"{where}: {found!r} is not {self._expected}")
        return cast("T", found)


def _origin(thing: object) -> tuple[str, str]:
    """Return where a class or function, or the class of an instance, was defined."""
    place = thing if hasattr(thing, "__qualname__") else type(thing)
    return place.__module__, place.__qualname__
