"""Options that several verbs share, and how their text becomes values."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from qir.backends.execution.saturation import WeightStorage
from qir.errors import QirError

if TYPE_CHECKING:
    from qir.search.problem.parts import Budget

Model = Annotated[Path, typer.Argument(help="ONNX file of the float network.", show_default=False)]
_TARGET = typer.Option("--target", "-t", help="Shipped target (`qir cost --list` shows them) or JSON file.")
TargetName = Annotated[str, _TARGET]
OptionalTarget = Annotated[str | None, _TARGET]
Data = Annotated[
    Path,
    typer.Option(
        "--data",
        "-d",
        help="Samples: .npy, .npz by input name, a folder of images (or of class folders) or WAV files, lines of ids "
        "(.txt); `distilled` makes them from BatchNorm statistics.",
        show_default=False,
    ),
]
Output = Annotated[Path, typer.Option("--output", "-o", help="Quantized model; guide and weights lie next to it.")]
Budgets = Annotated[
    list[str] | None, typer.Option("--budget", "-b", help="`latency=0.35x` (of 8 bits) or `latency=120000` (cycles).")
]
InputWidths = Annotated[str, typer.Option(help="Widths of the network's inputs: `8`, or `all` to decide them too.")]
ReduceRange = Annotated[
    bool,
    typer.Option(
        "--reduce-range",
        help="For x86 CPUs without VNNI: weights of 7 bits next to 8-bit activations, whose products fit int16.",
    ),
]
Weights = Annotated[
    WeightStorage | None,
    typer.Option(
        "--weights",
        help="How 8-bit weight codes are stored; auto: int8 where x86 CPUs without VNNI are exact, else uint8.",
    ),
]
AllowMismatches = Annotated[
    bool,
    typer.Option(
        "--allow-mismatches",
        help="Write the file too when its codes differ from the integer reference; guide and metadata say so.",
    ),
]
Seed = Annotated[int, typer.Option(help="Seed of every random choice.", min=0)]


def parse_budgets(texts: list[str] | None) -> dict[str, Budget]:
    """Budgets from `name=limit` texts.

    Raises:
        QirError: a text has another form, names no cost, or one cost twice, or its limit is not above 0.
    """
    from qir.search.network.problem import read_budgets

    budgets: dict[str, Budget | str] = {}
    for text in texts or []:
        name, found, limit = text.partition("=")
        if not found or not name:
            raise QirError(f"budget {text!r}: expected name=limit, for example latency=0.35x")
        if name in budgets:
            raise QirError(f"budget {text!r}: {name} is limited twice, also to {budgets[name]}; give one limit")
        budgets[name] = limit
    return read_budgets(budgets)
