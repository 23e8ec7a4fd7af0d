"""`qir eval`: networks side by side on the same samples."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from qir.cli.answers import Answer
from qir.cli.networks import network
from qir.cli.samples import ImageOptions, read_and_tell

if TYPE_CHECKING:
    from qir.search.report.side_by_side import Evaluated
    from qir.support.terminal import Terminal


def eval(  # noqa: A001 - the verb is called so
    models: Annotated[list[Path], network("ONNX files of any tool; the first is what the others are held against")],
    data: Annotated[
        Path | None, typer.Option("--data", "-d", help="Samples of any kind; normal noise without them.")
    ] = None,
    labels: Annotated[
        Path | None, typer.Option(help="Labels of the data, .npy; class folders and .npz files have their own.")
    ] = None,
    *,
    images: ImageOptions,
) -> Answer:
    """Return accuracy, agreement with the first, latency in ONNX Runtime and bytes of any ONNX files, side by side.

    Latency is the processor time of one sample on one thread of this machine; the files take turns, so that a slow
    moment hits all of them.

    qir eval model.onnx out/model.quant.onnx --data photos/ --labels labels.npy
    """
    import qir
    from qir.passes.parity.agreement import Labels, labels_in
    from qir.search.evaluation.splits import class_numbers
    from qir.search.report.side_by_side import side_by_side

    samples = read_and_tell(data, qir.load(models[0]), models[0], images)
    known = labels_in(samples, "the data given")
    if labels is not None:
        known = Labels(class_numbers(labels), labels.name)
    rows = side_by_side(models, samples, labels=known)
    record = [{**vars(row), "agreeing": row.agreeing, "sqnr": row.sqnr} for row in rows]
    return Answer(record, partial(_show, rows))


def _show(rows: list[Evaluated], terminal: Terminal) -> None:
    from rich.table import Table

    table = Table("network", box=None, pad_edge=False)
    for heading in ("accuracy", "as in the first", "SQNR", "microseconds", "bytes on disk"):
        table.add_column(heading, justify="right")
    for index, row in enumerate(rows):
        speed = "" if row.microseconds is None else f"{row.microseconds:,.1f} (quartiles {row.spread:.0%})"
        table.add_row(
            row.file.name,
            "" if row.accuracy is None else f"{row.accuracy:.2%}",
            "" if row.agreeing is None or not index else f"{row.agreeing:.2%}",
            "" if row.sqnr is None or not index else f"{row.sqnr:.1f} dB",
            speed,
            f"{row.disk_bytes:,}",
        )
    terminal.print(table)
    found = rows[0].against_first
    split = "" if found.accuracy is None else f", accuracy on {found.accuracy.split}"
    terminal.print(f"compared on {found.data} ({found.samples:,} samples){split}", soft_wrap=True)
    for row in rows:
        if row.refused:
            terminal.print(f"{row.file.name}: no latency: {row.refused}", soft_wrap=True)
