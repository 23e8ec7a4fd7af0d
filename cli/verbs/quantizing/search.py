"""`qir search`: search bits by measured accuracy, retrain the winner, export it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from qir.cli.answers import Answer
from qir.cli.options import JobOptions, Model
from qir.cli.samples import ImageOptions
from qir.cli.written import print_outcome


def search(
    model: Model,
    data: Annotated[
        Path,
        typer.Option(
            "--data",
            "-d",
            help="Calibration split, of any kind; with labels (class folders, .npz) and neither of the next two, it is "
            "divided into all three.",
            show_default=False,
        ),
    ],
    job: JobOptions,
    images: ImageOptions,
    train: Annotated[
        Path | None, typer.Option(help="Retraining split: class folders, or .npz with `images` and `labels`.")
    ] = None,
    validation: Annotated[
        Path | None, typer.Option(help="Search-validation split, likewise; no image may be in both.")
    ] = None,
    method: Annotated[
        str, typer.Option(help="Solver: rl, random, exhaustive, evolution, …; milp and others of sensitivities.")
    ] = "rl",
    evaluations: Annotated[int, typer.Option(help="Policies that may be measured.", min=1)] = 50,
    enforcement: Annotated[str, typer.Option(help="Budget in rl: mask, reverse-order or haq-sweep.")] = "mask",
    reward: Annotated[str, typer.Option(help="Reward in rl: accuracy, wang2024-reconstructed, haq, …")] = "accuracy",
    workers: Annotated[int, typer.Option(help="Local processes that measure policies.", min=1)] = 1,
    scheduler: Annotated[str | None, typer.Option(help="Dask scheduler, such as tcp://host:8786.")] = None,
    result: Annotated[Path | None, typer.Option(help="JSON file for the result (`qir report` reads it).")] = None,
    test: Annotated[
        Path | None, typer.Option(help="Test split, likewise: the written file is measured on it, once.")
    ] = None,
    compare: Annotated[bool, typer.Option(help="Retrain and measure uniform widths too.")] = False,
) -> Answer:
    """Search bits by accuracy on the search-validation split, after correction and a short retraining.

    milp, pareto-dp, greedy and lagrangian measure no policy: they minimise the divergence of the outputs, which also
    guides evolution, surrogate and adrl.

    Ctrl-C ends the search and goes on with the best policy so far (exit code 130); a second one ends the command.

    qir search model.onnx --data calibration.npy --train train.npz --validation val.npz -b latency=0.35x
    qir search model.onnx --data photos/ --mean 0.485,0.456,0.406 --std 0.229,0.224,0.225 -b latency=0.35x
    """
    from qir.search import Job, Splits
    from qir.search.evaluation.parallel import executor_of
    from qir.search.report.console import CONSOLE, print_result, progress_bar

    job.make_folders(result)
    splits = Splits.read(data, retraining=train, validation=validation, test=test, images=images.read())
    run = Job(model, splits=splits, **job.of_job())
    if train is None and validation is None:
        run.splits = run.splits.divided(run.network, seed=job.seed)
    for line in run.splits.notes:
        CONSOLE.print(line, soft_wrap=True)
    options: dict[str, Any] = {"enforcement": enforcement, "reward": reward} if method == "rl" else {}
    with executor_of(workers, scheduler) as executor, progress_bar(evaluations, "search") as progress:
        found = run.solve(method, evaluations=evaluations, progress=progress, executor=executor, **options)
    print_result(found, "divergence of the outputs" if found.minimised else "accuracy on search-validation")
    if result is not None:
        found.save(result)
    run.export(job.output, **job.of_file())
    done = run.outcome(compare=compare)
    print_outcome(done, job.save, job.report)
    return Answer(done.to_json())
