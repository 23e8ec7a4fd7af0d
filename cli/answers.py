"""What every verb shares: `--json`, `--quiet`, `--verbose`, and how its answer reaches the reader."""

from __future__ import annotations

import inspect
import json
import logging
import os
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, redirect_stdout
from contextvars import ContextVar
from dataclasses import dataclass, fields, is_dataclass
from enum import Enum
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from qir.memory import budgeted

if TYPE_CHECKING:
    from qir.support.terminal import Terminal

FILE_COLUMNS = 160
"""Width of what is printed into a file or pipe, where `COLUMNS` does not say otherwise."""

_GROUP = "Output"

_SHARED: dict[str, tuple[str, Any]] = {
    "as_json": ("Print the answer as JSON on standard output, everything else on standard error.", ("--json",)),
    "quiet": ("Print nothing but errors (and what --json asks for).", ("--quiet", "-q")),
    "verbose": (
        "Say each stage with its seconds on standard error, and where an error was raised.",
        ("--verbose", "-v"),
    ),
}


running: ContextVar[typer.Context | None] = ContextVar("running", default=None)
"""The command that runs, as it was parsed."""


@dataclass(frozen=True)
class Answer:
    """What a verb found.

    Attributes:
        record: the answer for programs: numbers, text, lists, maps, dataclasses and paths.
        show: prints the answer for people; None where it was printed on the way.
        code: exit code.
    """

    record: Any
    show: Callable[[Terminal], None] | None = None
    code: int = 0


def answering(verb: Callable[..., Answer | None]) -> Callable[..., Answer]:
    """Return the verb with the shared options: its answer is shown, or printed as JSON, and handed on.

    A verb that takes `memory` runs within that budget.
    """
    own = inspect.signature(verb, eval_str=True)
    shared = [
        inspect.Parameter(
            name,
            inspect.Parameter.KEYWORD_ONLY,
            default=False,
            annotation=Annotated[bool, typer.Option(*names, help=text, rich_help_panel=_GROUP)],
        )
        for name, (text, names) in _SHARED.items()
    ]
    shared.append(inspect.Parameter("context", inspect.Parameter.KEYWORD_ONLY, annotation=typer.Context))

    @wraps(verb)
    def command(*, context: typer.Context, as_json: bool, quiet: bool, verbose: bool, **given: Any) -> Answer:
        running.set(context)
        with _heard(as_json=as_json, quiet=quiet, verbose=verbose), budgeted(given.get("memory")):
            answer = verb(**given) or Answer(None)
            if not as_json and answer.show is not None:
                answer.show(console())
        if as_json:
            typer.echo(json_text(answer.record))
        if answer.code:
            raise typer.Exit(answer.code)
        return answer

    kept = [parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY) for parameter in own.parameters.values()]
    command.__signature__ = own.replace(parameters=[*kept, *shared])  # type: ignore[attr-defined]
    command.__annotations__ = {parameter.name: parameter.annotation for parameter in (*kept, *shared)}
    return command


@contextmanager
def _heard(*, as_json: bool, quiet: bool, verbose: bool) -> Iterator[None]:
    """Send what is printed where the shared options say."""
    if verbose:
        logging.basicConfig(stream=sys.stderr, format="%(message)s")
        logging.getLogger("qir").setLevel(logging.INFO)
    if quiet:
        with Path(os.devnull).open("w", encoding="utf-8") as nowhere, redirect_stdout(nowhere):
            yield
    elif as_json:
        with redirect_stdout(sys.stderr):
            yield
    else:
        yield


def is_verbose() -> bool:
    """Return whether the reader wants to know where an error was raised."""
    return logging.getLogger("qir").isEnabledFor(logging.INFO)


def console() -> Terminal:
    """Return the terminal of standard output; wide where it is a file or a pipe, so that names stay whole."""
    from qir.support.terminal import Terminal

    found = Terminal()
    return found if found.is_terminal or "COLUMNS" in os.environ else Terminal(width=FILE_COLUMNS)


def json_text(record: Any) -> str:
    """Return a record as JSON; what is not a number (NaN, infinity) is null."""
    return json.dumps(_plain(record), indent=1)


def _plain(item: Any) -> Any:
    if item is None or (isinstance(item, bool | int | str) and not isinstance(item, Enum)):
        return item
    if isinstance(item, float):
        return item if abs(item) < float("inf") else None
    if isinstance(item, Mapping):
        return {str(key): _plain(value) for key, value in item.items()}
    if is_dataclass(item) and not isinstance(item, type):
        return {field.name: _plain(getattr(item, field.name)) for field in fields(item)}
    if isinstance(item, Enum):
        return _plain(item.value)
    if isinstance(item, set | frozenset):
        return sorted(map(_plain, item))
    if isinstance(item, list | tuple):
        return [_plain(value) for value in item]
    return _plain(item.tolist()) if hasattr(item, "tolist") else str(item)
