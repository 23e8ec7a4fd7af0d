"""`qir compare`: what two quantizations decide differently."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from qir.cli.answers import Answer

if TYPE_CHECKING:
    from qir.policy import Bits
    from qir.search.report.differences import Differences
    from qir.support.terminal import Terminal

_FILE = typer.Argument(help="Exported file, or what `--save` of a quantization wrote (.json).", show_default=False)


def compare(first: Annotated[Path, _FILE], second: Annotated[Path, _FILE]) -> Answer:
    """Hold two quantizations of a network against each other: which tensors have other bits, and the figures of both.

    Saved quantizations hold accuracy, cycles and sizes; exported files their bits and bytes. `qir eval` runs both on
    data.

    qir compare out/a.quant.onnx out/b.quant.onnx

    qir compare a.json b.json
    """
    from qir.search.report.differences import differences

    found = differences(first, second)
    return Answer(found, partial(_show, first, second, found))


def _show(first: Path, second: Path, found: Differences, terminal: Terminal) -> None:
    from rich.table import Table

    table = Table("", first.name, second.name, box=None, pad_edge=False)
    for name, (ours, theirs) in found.figures.items():
        table.add_row(name, ours, theirs)
    for each in found.differing:
        table.add_row(each.quantizer, _text(each.first), _text(each.second))
    terminal.print(table)
    terminal.print(f"{len(found.differing)} quantizers differ, {found.equal} have the same bits")


def _text(bits: Bits | None) -> str:
    if bits is None:
        return "not there"
    return f"{bits} bits" if isinstance(bits, int) else f"{min(bits)} to {max(bits)} bits by channel"
