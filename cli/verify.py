"""`qir verify`: does an exported file compute what the integer reference computes?"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from qir.module import Module
    from qir.passes.parity import ParityReport


def register(app: typer.Typer) -> None:
    """Add the verb."""
    app.command()(verify)


def verify(
    model: Annotated[Path, typer.Argument(help="Exported network of any profile, or of another tool.")],
    against: Annotated[Path | None, typer.Option(help="Float network: prints the noise of each layer.")] = None,
    data: Annotated[
        Path | None, typer.Option("--data", "-d", help="Samples, .npy or .npz; normal noise without them.")
    ] = None,
) -> None:
    """Run the integer reference and ONNX Runtime (fused, unfused, plain) and compare every code.

    The column `dyadic` is the integer reference with int32 multipliers and shifts in place of float32 multipliers. A
    float network with encodings beside it is compared as the QCDQ network that they describe.

    Exit code 0: the file keeps its promise; 1: it does not; 2: the input is wrong.

    qir verify model.quant.onnx --against model.onnx --data x.npy
    """
    import qir
    from qir.passes.parity import parity

    float_network = None if against is None else qir.load(against)
    report = parity(_exported(model), data, against=float_network)
    _print(report)
    if not report.keeps_promise:
        raise typer.Exit(1)


def _exported(path: Path) -> Module:
    """The file's network; one with encodings beside it in the form of codes."""
    import qir
    from qir.passes.raising.encodings import apply_encodings_beside
    from qir.passes.reference_outputs import code_forms

    module = qir.load(path)
    return next(code_forms(module), module) if apply_encodings_beside(module, path) else module


def _print(report: ParityReport) -> None:
    from rich.console import Console
    from rich.measure import Measurement
    from rich.table import Table

    console = Console(highlight=False, markup=False)
    table = Table(box=None, pad_edge=False)
    engines = [name for name in report.first if name not in report.refused]
    for column in ("layer", "kernel", "codes", *engines, "SQNR dB"):
        table.add_column(column, justify="left" if column in ("layer", "kernel") else "right", no_wrap=True)
    for layer in report.layers:
        wrong = [
            f"{layer.mismatches[name]:,}" + (f" (±{layer.largest[name]})" if layer.mismatches[name] else "")
            for name in engines
        ]
        noise = "" if layer.sqnr is None else f"{layer.sqnr:.1f}"
        table.add_row(layer.node, layer.kernel, f"{layer.codes:,}", *wrong, noise)
    needed = Measurement.get(console, console.options.update(max_width=1000), table).maximum
    Console(highlight=False, markup=False, width=max(console.width, needed)).print(table)
    for name in engines:
        console.print(_summary(report, name), soft_wrap=True)
    for name, reason in report.refused.items():
        console.print(f"{name}: refused: {reason}", soft_wrap=True)
    computed = [layer for layer in report.layers if layer.kernel != "border"]
    integer = sum(layer.kernel == "integer" for layer in computed)
    console.print(f"on integer kernels in ONNX Runtime: {integer} of {len(computed)} tensors of codes")
    for layer in report.layers:
        if layer.reason:
            console.print(f"on floats: {layer.node}: {layer.reason}", soft_wrap=True)
    if report.float_nodes:
        console.print(f"on floats in the integer reference: {', '.join(report.float_nodes)}", soft_wrap=True)
    if report.saturating:
        console.print(
            f"x86 CPUs without VNNI can saturate in {len(report.saturating)} layers "
            f"({', '.join((*report.saturating[:3], *(['…'] if len(report.saturating) > 3 else [])))}): "
            "use 7-bit weights there, or a target with reduce_range",
            soft_wrap=True,
        )
    if report.default != "fused":
        console.print("made for ONNX Runtime without QDQ fusion (session.disable_quant_qdq=1)")
    if report.requantization != "float32":
        console.print(f"made for hardware that requantizes with {report.requantization} multipliers", soft_wrap=True)
    if report.exact:
        console.print("power-of-two scales: equal codes are promised of every setting", soft_wrap=True)
    console.print("promise kept" if report.keeps_promise else "promise broken", style="bold")


def _summary(report: ParityReport, engine: str) -> str:
    wrong = sum(layer.mismatches[engine] for layer in report.layers)
    total = sum(layer.codes for layer in report.layers)
    flips = report.argmax_flips.get(engine)
    line = f"{engine}: {wrong:,} of {total:,} codes differ ({report.rate(engine):.1e})"
    line += "" if flips is None else f", argmax flips {flips} of {report.samples}"
    first = report.first[engine]
    if first is not None:
        place = ",".join(map(str, first.index))
        line += f"; first: {first.node} ({place}): {first.found}, reference {first.expected}"
    return line
