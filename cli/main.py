"""The `qir` command: collects the verbs, ends every `QirError` and every interruption in one line.

Signals are heard before anything is imported that takes long.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING, NoReturn

from qir.cli.interruption import Interruption
from qir.errors import MissingExtraError, QirError

if TYPE_CHECKING:
    import typer

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
    import typer

    from qir.cli.answers import answering
    from qir.cli.options import common, with_groups

    app = typer.Typer(
        name="qir",
        help="Mixed-precision quantization of ONNX networks: look, cost, search, export, check.\n\n"
        "A network is an ONNX file, or the name of a shipped one (`lenet`, `resnet-20-cifar`).",
        epilog=EXIT_CODES,
        no_args_is_help=True,
        rich_markup_mode="markdown",
        pretty_exceptions_enable=False,
    )
    app.callback()(common)
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


def main() -> None:
    """Entry point of the shell command; its exit codes are those of `EXIT_CODES`."""
    heard = Interruption()
    try:
        heard.listen()
        make_app(*sys.argv[1:2])()
    except BaseException as error:
        if heard.number:
            heard.deafen()
            sys.stderr.write(f"{heard.line(finished=isinstance(error, SystemExit) and not error.code)}\n")
            raise SystemExit(heard.exit_code) from None
        message = _message(error)
        if message is None:
            raise
        from qir.cli.answers import is_verbose

        if is_verbose():
            import traceback

            traceback.print_exception(error)
        _refuse(message)


def _message(error: BaseException) -> str | None:
    """Return what to say of an error of the input; None for what is no such error."""
    if isinstance(error, MemoryError):
        return "the memory does not suffice: give fewer samples, or a smaller network"
    if isinstance(error, RecursionError):
        return "the input nests too deeply: the file is damaged, or made to be so"
    if isinstance(error, ModuleNotFoundError) and error.name == "torch":
        return str(MissingExtraError("torch", "torch"))
    return str(error) if isinstance(error, QirError) else None


def _refuse(message: str) -> NoReturn:
    from qir.support.terminal import Terminal

    Terminal(stderr=True, soft_wrap=True).print(f"error: {message}")
    raise SystemExit(EXIT_BAD_INPUT) from None
