"""`qir quantize`: from a float ONNX file to a quantized one, without labels."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from qir.cli.options import (
    AllowMismatches,
    Budgets,
    Data,
    InputWidths,
    Model,
    Output,
    ReduceRange,
    TargetName,
    Weights,
    parse_budgets,
)
from qir.cli.written import ProfileName, print_agreement, print_report


def register(app: typer.Typer) -> None:
    """Add the verb."""
    app.command()(quantize)


def quantize(
    model: Model,
    data: Data,
    target: TargetName = "npu-148",
    output: Output = Path("model.quant.onnx"),
    budget: Budgets = None,
    input_widths: InputWidths = "8",
    method: Annotated[
        str, typer.Option(help="Calibration of activations: mse, minmax, percentile, entropy, …")
    ] = "mse",
    profile: ProfileName = None,
    correct: Annotated[bool, typer.Option(help="Channel-wise affine correction, folded into the file.")] = True,
    adaround: Annotated[bool, typer.Option(help="Learned rounding of weights (AdaRound), without labels.")] = False,
    store: Annotated[
        str | None, typer.Option(help="SQLite file or SQLAlchemy URL that keeps the sensitivities for later budgets.")
    ] = None,
    before: Annotated[str, typer.Option(help="Pipeline to run first, `freeze-inputs{shapes=[x:1x3x32x32]}`.")] = "",
    insert: Annotated[str, typer.Option(help="Options of insert-fake-quant, `block=32,keep=[fc.*:8]`.")] = "",
    reduce_range: ReduceRange = False,
    weights: Weights = None,
    allow_mismatches: AllowMismatches = False,
) -> None:
    """Quantize a network without labels: exact choice of bits under the budgets, from the divergence of the outputs.

    Without a budget every quantizer gets its widest legal width.

    qir quantize model.onnx --data calibration.npy --target npu-148 --budget latency=0.5x -o out/model.quant.onnx
    """
    from qir.search.quantize import quantize as run
    from qir.search.report.console import CONSOLE, print_result

    done = run(
        model,
        target=target,
        data=data,
        budgets=parse_budgets(budget),
        output=output,
        input_widths=input_widths,
        method=method,
        profile=profile,
        correct=correct,
        adaround=adaround,
        store=store,
        before=before,
        insert=insert,
        reduce_range=reduce_range,
        weights=weights,
        allow_mismatches=allow_mismatches,
    )
    if done.result is not None:
        print_result(done.result, "divergence of the outputs")
    for note in done.notes:
        CONSOLE.print(f"note: {note}", soft_wrap=True)
    for reason in dict.fromkeys(done.left_float.values()):
        names = [name for name, found in done.left_float.items() if found == reason]
        CONSOLE.print(f"stays float: {reason}: {', '.join(names)}", soft_wrap=True)
    print_report(done.written)
    print_agreement(done.agreement)
