"""Names of a package that are imported on first use (PEP 562), so that importing the package is light."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Mapping
from typing import Any


def names_of(package: str, home: Mapping[str, str]) -> tuple[Callable[[str], Any], Callable[[], list[str]]]:
    """Return a package's `__dir__` and `__getattr__`, which imports the module that defines a name and keeps it.

    Args:
        package: the package's `__name__`.
        home: public name → the module inside the package that defines it, with `:name` where it has another name there.
    """

    def get(name: str) -> Any:
        if name not in home:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        module, _, other = home[name].partition(":")
        found = getattr(importlib.import_module(f"{package}.{module}"), other or name)
        setattr(sys.modules[package], name, found)
        return found

    def names() -> list[str]:
        return sorted({*vars(sys.modules[package]), *home})

    return get, names
