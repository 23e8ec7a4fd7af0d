"""`qir quantize`: from a float ONNX file to a quantized one."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from qir.cli.answers import Answer
from qir.cli.job_files import save_job
from qir.cli.options import Data, JobOptions, Model
from qir.cli.samples import ImageOptions


def quantize(
    model: Model,
    data: Data,
    job: JobOptions,
    images: ImageOptions,
    method: Annotated[
        str, typer.Option(help="Solver: milp, pareto-dp, greedy, lagrangian; with labels also rl, random, evolution, …")
    ] = "milp",
    labels: Annotated[
        Path | None, typer.Option(help="Labels of the data, .npy; or the array `labels` of a .npz file of data.")
    ] = None,
    calibration: Annotated[
        str, typer.Option(help="Calibration of activations: mse, minmax, percentile, entropy, …")
    ] = "mse",
    sensitivity: Annotated[
        str,
        typer.Option(
            help="What bits are chosen by where no policy is measured: auto, exhaustive (dear), gauss-newton, taylor, …"
        ),
    ] = "auto",
    correct: Annotated[bool, typer.Option(help="Channel-wise affine correction, folded into the file.")] = True,
    adaround: Annotated[bool, typer.Option(help="Learned rounding of weights (AdaRound), without labels.")] = False,
    before: Annotated[str, typer.Option(help="Pipeline to run first, `freeze-inputs{shapes=[x:1x3x32x32]}`.")] = "",
    insert: Annotated[str, typer.Option(help="Options of insert-fake-quant, `block=32,keep=[fc.*:8]`.")] = "",
    compare: Annotated[bool, typer.Option(help="Measure uniform widths too, where bits are searched.")] = True,
) -> Answer:
    """Quantize a network: exact choice of bits under the budgets, from how far widths move the outputs, without labels.

    Without a budget every quantizer gets its widest legal width. Ctrl-C ends measuring and search, and goes on with the
    best policy so far (exit code 130). With labels and a method that measures, policies are judged by accuracy on a
    part of the data, after a short retraining on another part.

    qir quantize model.onnx --data calibration.npy --target npu-148 --budget latency=0.5x -o out/model.quant.onnx
    qir quantize model.onnx --data photos/ --mean 0.485,0.456,0.406 --std 0.229,0.224,0.225 --size 224
    """
    from qir.cli.written import print_outcome
    from qir.search import quantize as run
    from qir.search.report.console import print_result, stage_bar

    job.make_folders()
    with stage_bar() as stages:
        done = run(
            model,
            data=data,
            labels=labels,
            output=job.output,
            method=method,
            calibration=calibration,
            sensitivity=sensitivity,
            correct=correct,
            adaround=adaround,
            before=before,
            insert=insert,
            compare=compare,
            images=images.read(),
            stages=stages,
            **job.of_job(),
            **job.of_file(),
        )
    if done.result is not None:
        print_result(done.result, done.selected_by)
    print_outcome(done, job.save, job.report)
    return Answer({**done.to_json(), "job": save_job(done.written.model)})
