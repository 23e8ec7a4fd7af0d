"""`qir export`: a calibrated or an exported network, written in another profile."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from qir.cli.options import OptionalTarget, ReduceRange
from qir.cli.written import ProfileName, print_report
from qir.errors import ExportError

if TYPE_CHECKING:
    from qir.module import Module


def register(app: typer.Typer) -> None:
    """Add the verb."""
    app.command(name="export")(export)


def export(
    source: Annotated[
        Path | None, typer.Argument(help="Calibrated network (.onnx, .qir), or an exported one.", show_default=False)
    ] = None,
    profile: ProfileName = None,
    target: OptionalTarget = None,
    data: Annotated[Path | None, typer.Option("--data", "-d", help="Samples to compare: .npy or .npz.")] = None,
    output: Annotated[Path, typer.Option("--output", "-o", help="Model; guide and weights lie beside it.")] = Path(
        "model.quant.onnx"
    ),
    reduce_range: ReduceRange = False,
    list_profiles: Annotated[bool, typer.Option("--list", help="Name every profile and say what it is.")] = False,
) -> None:
    """Write a quantized network in a profile: lowered, checked, run, compared, and only then named.

    A file that was exported already is read back first, so that one profile becomes another.

    qir export model.quant.onnx --profile qoperator -o out/model.quant.onnx
    """
    if list_profiles:
        typer.echo(profiles_text(), nl=False)
        return
    if source is None:
        raise ExportError("qir export: no network: give a calibrated network, or --list for the profiles")
    from qir.backends import load_target
    from qir.passes import export as write

    hardware = None if target is None else load_target(target)
    module = _quantized(source, widths=(7,) if reduce_range else ())
    print_report(write(module, output, profile=profile, target=hardware, data=data, reduce_range=reduce_range))


def _quantized(source: Path, widths: tuple[int, ...]) -> Module:
    """The network with its quantizers, raised with these candidate widths from an exported file where it has none."""
    from qir.cli.opt import read
    from qir.passes import PassContext
    from qir.passes.raising import RaiseQuantized
    from qir.passes.raising.encodings import apply_encodings_beside

    module = read(source)
    if module.graph.fake_quants() or apply_encodings_beside(module, source):
        return module
    RaiseQuantized(widths).run(module, PassContext())
    return module


def profiles_text() -> str:
    """One line a profile: its name, the operator set it needs, and what it is."""
    from qir.passes.lowering.profiles import profiles

    width = max(len(profile.name) for profile in profiles())
    return "".join(f"{p.name:{width}}  opset {p.opset}  {p.description}\n" for p in profiles())
