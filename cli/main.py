"""The `qir` command: collects the verbs, ends every `QirError` and every interruption in one line."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, NoReturn

from qir.cli.interruption import Interruption
from qir.errors import QirError

if TYPE_CHECKING:
    import typer

VERBS = ("opt", "quantize", "search", "export", "report", "cost", "verify")
"""Modules of `qir.cli`, each with `register(app)`."""

EXIT_BAD_INPUT = 2


def make_app() -> typer.Typer:
    """The Typer application with all verbs."""
    import typer

    app = typer.Typer(
        name="qir",
        help="Mixed-precision quantization of ONNX networks: transform, cost, search, export.",
        no_args_is_help=True,
        rich_markup_mode="markdown",
        pretty_exceptions_enable=False,
    )
    for verb in VERBS:
        importlib.import_module(f"qir.cli.verbs.{verb}").register(app)
    return app


def main() -> None:
    """Entry point of the shell command: 0, 2 for bad input, 130 and 143 after Ctrl-C and SIGTERM."""
    heard = Interruption()
    try:
        heard.listen()
        make_app()()
    except BaseException as error:
        if heard.number:
            heard.deafen()
            _end(heard.line(finished=isinstance(error, SystemExit) and not error.code), heard.exit_code)
        message = _message(error)
        if message is None:
            raise
        _end(f"error: {message}", EXIT_BAD_INPUT)


def _message(error: BaseException) -> str | None:
    """What to say of an error of the input; None for what is no such error."""
    if isinstance(error, MemoryError):
        return "the memory does not suffice: give fewer samples, or a smaller network"
    if isinstance(error, RecursionError):
        return "the input nests too deeply: the file is damaged, or made to be so"
    return str(error) if isinstance(error, QirError) else None


def _end(line: str, code: int) -> NoReturn:
    from qir.support.terminal import Terminal

    Terminal(stderr=True, soft_wrap=True).print(line)
    raise SystemExit(code) from None
