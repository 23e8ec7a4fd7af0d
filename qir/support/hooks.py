"""A user's function by text, `module:function`, also from the current folder."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from qir.errors import QirError


def function_of(text: str) -> Callable[..., Any]:
    """Return the function that a text names.

    Args:
        text: `module:function`; the module is importable, or a file of the current folder.

    Raises:
        QirError: the text has another form, the module cannot be imported, or it has no such function.
    """
    name, found, attribute = text.partition(":")
    if not found or not name or not attribute:
        raise QirError(f"function {text!r}: expected module:function, such as my_training:train")
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.append(here)
    try:
        module = importlib.import_module(name)
    except Exception as error:
        raise QirError(f"function {text!r}: module {name!r}: {type(error).__name__}: {error}") from error
    function = getattr(module, attribute, None)
    if not callable(function):
        raise QirError(f"function {text!r}: module {name!r} has no function {attribute!r}")
    return function  # type: ignore[no-any-return]
