"""`qir opt`: run a pipeline of passes on a network, from and to ONNX or text."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from qir.cli.answers import Answer
from qir.cli.networks import network
from qir.cli.options import OptionalTarget, Profile, Seed
from qir.cli.samples import ImageOptions, read_and_tell
from qir.cli.written import print_report
from qir.errors import ModelFileError, QirError
from qir.support.atomic_write import atomic_write

if TYPE_CHECKING:
    from qir.module import Module
    from qir.passes.infrastructure.instruments import Instrument

TEXT_SUFFIX = ".qir"


def opt(
    source: Annotated[Path | None, network("ONNX file, or text form (.qir)")] = None,
    passes: Annotated[str, typer.Option("--passes", "-p", help="Pipeline, `pass,pass{option=1}`.")] = "",
    output: Annotated[Path | None, typer.Option("--output", "-o", help=".onnx or .qir; without it, text.")] = None,
    data: Annotated[
        Path | None, typer.Option("--data", "-d", help="Samples of any kind; `distilled` makes them.")
    ] = None,
    target: OptionalTarget = None,
    profile: Profile = None,
    seed: Seed = 0,
    replay: Annotated[Path | None, typer.Option(help="Folder of a reproducer: run its pipeline again.")] = None,
    print_after: Annotated[bool, typer.Option(help="Print the text after every pass to standard error.")] = False,
    dump_ir: Annotated[Path | None, typer.Option(help="Write the text before and after every pass here.")] = None,
    timing: Annotated[bool, typer.Option(help="Seconds of every pass, to standard error.")] = False,
    list_passes: Annotated[bool, typer.Option("--list", help="Name every pass and say what it does.")] = False,
    *,
    images: ImageOptions,
) -> Answer:
    """Run passes on a network and write it; without `-o` its text goes to standard output, long constants as hashes.

    qir opt model.onnx -d calibration.npy -p "fold-batchnorm,insert-fake-quant,calibrate,adaround" -o model.qir
    """
    if list_passes:
        typer.echo(passes_text(), nl=False)
        return Answer(passes_known())
    instruments = _Instruments(print_after=print_after, dump_ir=dump_ir, timing=timing)
    module = _transformed(source, passes, replay, _Given(data, target, seed, images), instruments)
    instruments.report()
    if profile is not None:
        return _export(module, output, profile, _Given(data, target, seed, images))
    write(module, output)
    return Answer({"file": output, "nodes": len(list(module.graph))})


def _export(module: Module, output: Path | None, profile: str, given: _Given) -> Answer:
    from qir.backends import load_target
    from qir.passes import export

    if output is None:
        raise ModelFileError("qir opt --profile: give the file to write with -o")
    hardware = None if given.target is None else load_target(given.target)
    written = export(module, output, profile=profile, target=hardware, data=given.data)
    print_report(written)
    return Answer(written)


@dataclass(frozen=True)
class _Given:
    data: Path | None
    target: str | None
    seed: int
    images: ImageOptions

    def samples(self, module: Module, source: Path) -> Any:
        """Return the data, read for a network; what was understood goes to standard error, next to the text."""
        return read_and_tell(self.data, module, source, self.images, stderr=True)


class _Instruments:
    """What observes the passes, by the flags of the shell."""

    def __init__(self, *, print_after: bool, dump_ir: Path | None, timing: bool) -> None:
        from qir.passes import DumpIR, PrintAfter, Timing, VerifyEach

        self.timing = Timing() if timing else None
        self.all: list[Instrument] = [VerifyEach()]
        self.all += [PrintAfter(sys.stderr)] if print_after else []
        self.all += [] if dump_ir is None else [DumpIR(dump_ir)]
        self.all += [] if self.timing is None else [self.timing]

    def report(self) -> None:
        """Print what was measured."""
        if self.timing is not None:
            typer.echo(self.timing.report(), err=True)


def _transformed(
    source: Path | None, passes: str, folder: Path | None, given: _Given, instruments: _Instruments
) -> Module:
    from qir.backends import load_target
    from qir.passes import PassContext, PassManager, parse_pipeline, replay
    from qir.passes.calibration.distill_data import given_or_distilled
    from qir.passes.simplify.infer_types import verify_types

    hardware = None if given.target is None else load_target(given.target)
    if folder is not None:
        return replay(folder, PassContext(target=hardware, calibration_data=given.data))
    if source is None:
        raise ModelFileError("qir opt: no network: give an ONNX file, a text (.qir), or --replay FOLDER")
    module = read(source)
    for note in verify_types(module):
        typer.echo(f"note: {note}", err=True)
    if passes:
        data = given_or_distilled(module, given.samples(module, source), seed=given.seed)
        context = PassContext(target=hardware, calibration_data=data, seed=given.seed)
        PassManager(parse_pipeline(passes), instruments.all).run(module, context)
    return module


def passes_text() -> str:
    """Return one line a pass: its name and what it does."""
    known = passes_known()
    width = max(map(len, known))
    return "".join(f"{name:{width}}  {summary}\n" for name, summary in known.items())


def passes_known() -> dict[str, str]:
    """Return the name of every pass → what it does."""
    from qir.passes import available_passes

    return {name: _summary(name) for name in available_passes()}


def _summary(name: str) -> str:
    from qir.passes import find_pass

    try:
        lines = (find_pass(name).__doc__ or "").strip().splitlines()
    except QirError as error:
        return f"cannot be used: {error}"
    return lines[0] if lines else ""


def write(module: Module, output: Path | None) -> None:
    """Write a module as ONNX or text by the suffix, or print its text.

    Raises:
        ModelFileError: the file cannot be written.
    """
    import qir

    if output is None:
        typer.echo(qir.print_module(module, constants="hash"), nl=False)
    elif output.suffix == TEXT_SUFFIX:
        write_text(output, qir.print_module(module))
    else:
        qir.save(module, output)


def read(source: Path) -> Module:
    """Return the module of an ONNX file or of a text.

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
    with atomic_write(path, ModelFileError) as file:
        file.write_text(text, encoding="utf-8")
