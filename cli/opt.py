"""`qir opt`: run a pipeline of passes on a network, from and to ONNX or text."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from qir.errors import ModelFileError

if TYPE_CHECKING:
    from qir.module import Module

TEXT_SUFFIX = ".qir"


def register(app: typer.Typer) -> None:
    """Add the verb to the application."""
    app.command(name="opt")(opt)


def opt(
    source: Annotated[Path, typer.Argument(help="ONNX file, or text form (.qir).", show_default=False)],
    passes: Annotated[str, typer.Option("--passes", "-p", help="Pipeline, `pass,pass{option=1}`.")] = "",
    output: Annotated[Path | None, typer.Option("--output", "-o", help=".onnx or .qir; without it, text.")] = None,
    data: Annotated[Path | None, typer.Option("--data", "-d", help="Calibration samples: .npy or .npz.")] = None,
    target: Annotated[str | None, typer.Option("--target", "-t", help="Shipped target or JSON file.")] = None,
) -> None:
    """Run passes on a network and write it; without `-o` its text goes to standard output, long constants as hashes.

    qir opt model.onnx -d calibration.npy -p "fold-batchnorm,insert-fake-quant,calibrate,adaround" -o model.qir
    """
    import qir
    from qir.backends import load_target
    from qir.passes import PassContext, PassManager, parse_pipeline

    module = read(source)
    qir.verify(module)
    if passes:
        hardware = None if target is None else load_target(target)
        PassManager(parse_pipeline(passes)).run(module, PassContext(target=hardware, calibration_data=data))
    if output is None:
        typer.echo(qir.print_module(module, constants="hash"), nl=False)
    elif output.suffix == TEXT_SUFFIX:
        write_text(output, qir.print_module(module))
    else:
        qir.save(module, output)


def read(source: Path) -> Module:
    """The module of an ONNX file or of a text.

    Raises:
        QirError: the file cannot be read, or is neither.
    """
    import qir

    if source.suffix != TEXT_SUFFIX:
        return qir.load(source)
    try:
        text = source.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ModelFileError(f"{source}: cannot be read as text: {error}") from error
    return qir.parse(text)


def write_text(path: Path, text: str) -> None:
    """Write a file whole or not at all.

    Raises:
        ModelFileError: the folder cannot be written to.
    """
    try:
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=path.name)
        with os.fdopen(handle, "w", encoding="utf-8") as stream:
            stream.write(text)
        Path(temporary).replace(path)
    except OSError as error:
        raise ModelFileError(f"{path}: cannot be written: {error}") from error
