"""`qir export`: a calibrated or an exported network, written in another profile."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from qir.cli.answers import Answer
from qir.cli.networks import network
from qir.cli.options import AllowMismatches, Memory, OptionalTarget, Profile, ReduceRange, Weights
from qir.cli.samples import ImageOptions, read_and_tell
from qir.cli.written import print_agreement, print_report

if TYPE_CHECKING:
    from qir.module import Module
    from qir.passes.exporting.export import ExportReport
    from qir.passes.parity.agreement import Agreement


def export(
    source: Annotated[Path, network("Calibrated network (.onnx, .qir), or an exported one")],
    profile: Profile = None,
    target: OptionalTarget = None,
    data: Annotated[Path | None, typer.Option("--data", "-d", help="Samples to compare, of any kind.")] = None,
    output: Annotated[Path, typer.Option("--output", "-o", help="Model; guide and weights lie next to it.")] = Path(
        "model.quant.onnx"
    ),
    reduce_range: ReduceRange = False,
    weights: Weights = None,
    allow_mismatches: AllowMismatches = False,
    batch: Annotated[
        int | None, typer.Option(min=1, help="Samples that the file takes at a time; open without it.")
    ] = None,
    memory: Memory = None,
    *,
    images: ImageOptions,
) -> Answer:
    """Write a quantized network in a profile: lowered, checked, run, compared, and only then named.

    A file that was exported already is read back first, so that one profile becomes another.

    qir export model.quant.onnx --profile qoperator -o out/model.quant.onnx
    """
    from qir.backends import load_target
    from qir.passes import export as write

    del memory  # the budget of the whole verb
    hardware = None if target is None else load_target(target)
    module, raised = _quantized(source, widths=(7,) if reduce_range else ())
    samples = read_and_tell(data, module, source, images)
    options: dict[str, Any] = {"target": hardware, "data": samples, "reduce_range": reduce_range, "weights": weights}
    options["batch"] = batch
    written = write(module, output, profile=profile, allow_mismatches=allow_mismatches, **options)
    found = _against_float(module, written, samples, raised=raised)
    print_report(written)
    print_agreement(found)
    return Answer({"written": written, "against_float": found})


def _against_float(module: Module, written: ExportReport, data: Any, *, raised: bool) -> Agreement:
    """Return the outputs against the network without its fake-quant nodes.

    An exported file has no float weights any more.
    """
    from qir.passes.parity.agreement import Agreement, agreement_of_file, float_form, labels_in

    if raised:
        return Agreement(
            "",
            0,
            (),
            reason="the network was exported before and holds no float weights: qir verify --against compares",
        )
    return agreement_of_file(written.model, float_form(module), data, labels=labels_in(data, "the data given"))


def _quantized(source: Path, widths: tuple[int, ...]) -> tuple[Module, bool]:
    """Return the network with its quantizers, and whether they were raised from an exported file, with these widths."""
    from qir.cli.verbs.rewriting.opt import read
    from qir.passes import run_passes
    from qir.passes.raising import RaiseQuantized
    from qir.passes.raising.encodings import apply_encodings_next_to

    module = read(source)
    if module.graph.fake_quants():
        return module, False
    if not apply_encodings_next_to(module, source):
        run_passes(module, [RaiseQuantized(widths)])
    return module, True
