"""The `qir` command: collects the verbs, turns every `QirError` into one line and exit code 2."""

from __future__ import annotations

import importlib
import sys
from typing import NoReturn

import typer

from qir.errors import QirError
from qir.terminal import Terminal

VERBS = ("opt", "quantize", "search", "export", "report", "cost", "verify")
"""Modules of `qir.cli`, each with `register(app)`."""

EXIT_BAD_INPUT = 2


def make_app() -> typer.Typer:
    """The Typer application with all verbs."""
    app = typer.Typer(
        name="qir",
        help="Mixed-precision quantization of ONNX networks: transform, cost, search, export.",
        no_args_is_help=True,
        rich_markup_mode="markdown",
        pretty_exceptions_enable=False,
    )
    for verb in VERBS:
        importlib.import_module(f"qir.cli.{verb}").register(app)
    return app


def main() -> None:
    """Entry point of the shell command."""
    try:
        make_app()()
    except QirError as error:
        _end(str(error))
    except MemoryError:
        _end("the memory does not suffice: give fewer samples, or a smaller network")
    except RecursionError:
        _end("the input nests too deeply: the file is damaged, or made to be so")


def _end(message: str) -> NoReturn:
    Terminal(stderr=True, soft_wrap=True).print(f"error: {message}")
    sys.exit(EXIT_BAD_INPUT)
