"""`qir quantize`: from a float ONNX file to a quantized one."""

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
    Seed,
    TargetName,
    Weights,
    parse_budgets,
)
from qir.cli.samples import Images, with_images
from qir.cli.written import ProfileName
from qir.support.atomic_write import make_folder


def register(app: typer.Typer) -> None:
    """Add the verb."""
    app.command()(with_images(quantize))


def quantize(
    model: Model,
    data: Data,
    target: TargetName = "npu-148",
    output: Output = Path("model.quant.onnx"),
    budget: Budgets = None,
    input_widths: InputWidths = "8",
    method: Annotated[
        str, typer.Option(help="Solver: milp, pareto-dp, greedy, lagrangian; with labels also rl, random, evolution, …")
    ] = "milp",
    labels: Annotated[
        Path | None, typer.Option(help="Labels of the data, .npy; or the array `labels` of a .npz file of data.")
    ] = None,
    calibration: Annotated[
        str, typer.Option(help="Calibration of activations: mse, minmax, percentile, entropy, …")
    ] = "mse",
    profile: ProfileName = None,
    correct: Annotated[bool, typer.Option(help="Channel-wise affine correction, folded into the file.")] = True,
    adaround: Annotated[bool, typer.Option(help="Learned rounding of weights (AdaRound), without labels.")] = False,
    store: Annotated[
        str | None, typer.Option(help="SQLite file or SQLAlchemy URL that keeps what was measured for later budgets.")
    ] = None,
    before: Annotated[str, typer.Option(help="Pipeline to run first, `freeze-inputs{shapes=[x:1x3x32x32]}`.")] = "",
    insert: Annotated[str, typer.Option(help="Options of insert-fake-quant, `block=32,keep=[fc.*:8]`.")] = "",
    seed: Seed = 0,
    reduce_range: ReduceRange = False,
    weights: Weights = None,
    allow_mismatches: AllowMismatches = False,
    compare: Annotated[bool, typer.Option(help="Measure uniform widths too, where bits are searched.")] = True,
    save: Annotated[Path | None, typer.Option(help="JSON file for decisions, figures and provenance.")] = None,
    report: Annotated[Path | None, typer.Option(help="HTML page of the result.")] = None,
    images: Images = None,
) -> None:
    """Quantize a network: exact choice of bits under the budgets, from the divergence of the outputs, without labels.

    Without a budget every quantizer gets its widest legal width. With labels and a method that measures, policies are
    judged by accuracy on a part of the data, after a short retraining on another part.

    qir quantize model.onnx --data calibration.npy --target npu-148 --budget latency=0.5x -o out/model.quant.onnx
    qir quantize model.onnx --data photos/ --mean 0.485,0.456,0.406 --std 0.229,0.224,0.225 --size 224
    """
    from qir.cli.written import print_outcome
    from qir.search import quantize as run
    from qir.search.report.console import print_result

    for path in (save, report):
        if path is not None:
            make_folder(path)
    done = run(
        model,
        target=target,
        data=data,
        labels=labels,
        budgets=parse_budgets(budget),
        output=output,
        method=method,
        input_widths=input_widths,
        calibration=calibration,
        profile=profile,
        correct=correct,
        adaround=adaround,
        store=store,
        before=before,
        insert=insert,
        seed=seed,
        reduce_range=reduce_range,
        weights=weights,
        allow_mismatches=allow_mismatches,
        compare=compare,
        images=images,
    )
    if done.result is not None:
        print_result(done.result, done.selected_by)
    print_outcome(done, save, report)
