"""What the shell says about an exported network."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

    from qir.guide import SourceGuide
    from qir.passes.exporting.export import ExportReport
    from qir.passes.parity.agreement import Agreement
    from qir.search.report.quantized import Quantized


def _compared(report: ExportReport) -> str:
    if report.reference == "products":
        return f"{report.mismatches:,} of {report.codes:,} results of products differ from what their codes give"
    return f"{report.mismatches:,} of {report.codes:,} codes differ from the {report.reference}"


def print_report(report: ExportReport) -> None:
    """Print kernels, comparison, what is emulated, what the runtime needs, and the files with their sizes."""
    from qir.passes.exporting.written_sizes import written_sizes
    from qir.support.terminal import Terminal

    console = Terminal(soft_wrap=True)
    kernels = ", ".join(f"{count} {op}" for op, count in Counter(report.integer_nodes).most_common())
    console.print(f"integer kernels in ONNX Runtime: {kernels or 'none'}")
    ties = f", {report.ties:,} rounding ties" if report.ties else ""
    console.print(f"profile {report.profile}: {_compared(report)}{ties}")
    for sentence in report.allowed:
        console.print(f"NOT EXACT, allowed by --allow-mismatches: {sentence}")
    for reason in dict.fromkeys(reason for _, reason in report.emulated):
        names = [name for name, found in report.emulated if found == reason]
        console.print(f"emulated: {reason}: {', '.join(names)}")
    if report.unproven:
        console.print(
            f"sums of unknown length, that can leave int32: {', '.join(report.unproven)} (freeze-inputs fixes sizes)"
        )
    if report.saturating:
        console.print(_where_exact(report))
    for option, value in report.session:
        console.print(f"ONNX Runtime loads it with the session option {option}={value} only")
    if report.source is not None:
        console.print(_source_text(report.source))
    for line in written_sizes(report).lines():
        console.print(line)
    files = (
        ("model", report.model),
        ("guide", report.guide),
        ("weights", report.weights),
        ("encodings", report.encodings),
    )
    for label, path in files:
        if path is not None:
            console.print(f"{label:10}{path}  ({path.stat().st_size:,} bytes)")


def _source_text(source: SourceGuide) -> str:
    """Return what was written in C, and what was proven of it."""
    memory = f"{source.arena_bytes + source.scratch_bytes:,} bytes of static memory"
    if not source.compiler:
        return f"C99: {', '.join(source.files)}: {memory}; NOT COMPARED: there is no C compiler (cc) on this machine"
    return (
        f"C99: {', '.join(source.files)}: {memory}; compiled by {source.compiler}, 0 of {source.codes:,} output codes "
        f"differ from the integer reference"
    )


def print_agreement(agreement: Agreement) -> None:
    """Print what a user asks first: how far the outputs are from the float network's."""
    from qir.support.terminal import Terminal

    console = Terminal(soft_wrap=True)
    for line in agreement.lines():
        console.print(line)


def print_outcome(done: Quantized, save: Path | None = None, report: Path | None = None) -> None:
    """Print notes, the files with their comparison, and the closing table; write what was asked for next to it."""
    from qir.support.terminal import Terminal

    console = Terminal(soft_wrap=True)
    for note in done.notes:
        console.print(f"note: {note}")
    for reason in dict.fromkeys(done.left_float.values()):
        names = [name for name, found in done.left_float.items() if found == reason]
        console.print(f"stays float: {reason}: {', '.join(names)}")
    print_report(done.written)
    print_agreement(done.agreement)
    for line in done.table_text():
        console.print(line)
    if save is not None:
        console.print(f"{'saved':10}{done.save(save)}")
    if report is not None:
        console.print(f"{'report':10}{done.report(report)}")


def _where_exact(report: ExportReport) -> str:
    """On which CPUs a file is exact whose layers are not proven so everywhere."""
    more = ", …" if len(report.saturating) > 3 else ""
    options = " and ".join(f"{option}={value}" for option, value in report.exact_with)
    return (
        "exact on CPUs with VNNI or ARM only: sums of 8-bit products can saturate elsewhere in "
        f"{len(report.saturating)} layers ({', '.join(report.saturating[:3])}{more}); exact there with "
        + (f"the session option {options}, or " if options else "")
        + "--weights auto or --reduce-range"
    )
