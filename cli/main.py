"""The `qir` command: collects the verbs, ends every `QirError` and every interruption in one line."""

from __future__ import annotations

import importlib
import sys
from typing import TYPE_CHECKING, Annotated, NoReturn

import typer

from qir.cli.answers import answering, is_verbose
from qir.cli.interruption import Interruption
from qir.cli.options import with_groups
from qir.errors import MissingExtraError, QirError

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOMS = {
    "quantizing": ("Quantize a network", ("quantize", "search", "run", "init")),
    "looking": ("Look at networks and results", ("inspect", "eval", "compare", "explain", "verify", "report")),
    "hardware": ("Hardware", ("cost", "target")),
    "rewriting": ("Rewrite a network", ("opt", "export")),
    "lists": ("What can be named", ("targets", "recipes", "profiles")),
}
"""Room of `qir.cli.verbs` → its heading in the help, and its verbs: a module each, with a function of the same name, or
with `group()` where the verb has subcommands."""

VERBS = tuple(verb for _, verbs in ROOMS.values() for verb in verbs)

EXIT_BAD_INPUT = 2

EXIT_CODES = """Exit codes: 0 done; 1 the file is not exact (`verify`); 2 bad input, in one line that
names what to do; 130 after Ctrl-C, 143 after SIGTERM."""


def make_app(asked: str = "") -> typer.Typer:
    """Return the Typer application with all verbs, or with the one that is asked for: the others need not be read."""
    app = typer.Typer(
        name="qir",
        help="Mixed-precision quantization of ONNX networks: look, cost, search, export, check.\n\n"
        "A network is an ONNX file, or the name of a shipped one (`lenet`, `resnet-20-cifar`).",
        epilog=EXIT_CODES,
        no_args_is_help=True,
        rich_markup_mode="markdown",
        pretty_exceptions_enable=False,
    )
    app.callback()(_common)
    for room, verb, panel in _verbs():
        if asked in VERBS and verb != asked:
            continue
        module = importlib.import_module(f"qir.cli.verbs.{room}.{verb}")
        if hasattr(module, "group"):
            app.add_typer(module.group(), name=verb, rich_help_panel=panel)
        else:
            app.command(verb, rich_help_panel=panel)(answering(with_groups(getattr(module, verb))))
    return app


def _verbs() -> Iterator[tuple[str, str, str]]:
    for room, (panel, verbs) in ROOMS.items():
        yield from ((room, verb, panel) for verb in verbs)


def _say_version(asked: bool) -> None:
    if asked:
        import qir

        typer.echo(f"qir {qir.__version__}")
        raise typer.Exit


_VERSION = typer.Option("--version", help="Print the version.", callback=_say_version, is_eager=True)


def _common(version: Annotated[bool, _VERSION] = False) -> None:
    del version


def main() -> None:
    """Entry point of the shell command; its exit codes are those of `EXIT_CODES`."""
    heard = Interruption()
    try:
        heard.listen()
        make_app(*sys.argv[1:2])()
    except BaseException as error:
        if heard.number:
            heard.deafen()
            _end(heard.line(finished=isinstance(error, SystemExit) and not error.code), heard.exit_code)
        message = _message(error)
        if message is None:
            raise
        if is_verbose():
            import traceback

            traceback.print_exception(error)
        _end(f"error: {message}", EXIT_BAD_INPUT)


def _message(error: BaseException) -> str | None:
    """Return what to say of an error of the input; None for what is no such error."""
    if isinstance(error, MemoryError):
        return "the memory does not suffice: give fewer samples, or a smaller network"
    if isinstance(error, RecursionError):
        return "the input nests too deeply: the file is damaged, or made to be so"
    if isinstance(error, ModuleNotFoundError) and error.name == "torch":
        return str(MissingExtraError("torch", "torch"))
    return str(error) if isinstance(error, QirError) else None


def _end(line: str, code: int) -> NoReturn:
    from qir.support.terminal import Terminal

    Terminal(stderr=True, soft_wrap=True).print(line)
    raise SystemExit(code) from None
