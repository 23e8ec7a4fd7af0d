"""`qir search`: search bits by measured accuracy, retrain the winner, export it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import typer

from qir.cli.options import (
    AllowMismatches,
    Budgets,
    InputWidths,
    Model,
    Output,
    ReduceRange,
    Seed,
    TargetName,
    Weights,
    parse_budgets,
)
from qir.cli.written import ProfileName, print_agreement, print_report
from qir.support.atomic_write import make_folder


def register(app: typer.Typer) -> None:
    """Add the verb."""
    app.command()(search)


def search(
    model: Model,
    data: Annotated[
        Path, typer.Option("--data", "-d", help="Calibration split: .npy, or .npz with `images`.", show_default=False)
    ],
    train: Annotated[Path, typer.Option(help="Retraining split: .npz with `images` and `labels`.", show_default=False)],
    validation: Annotated[
        Path, typer.Option(help="Search-validation split, likewise; no image may be in both.", show_default=False)
    ],
    budget: Budgets = None,
    target: TargetName = "npu-148",
    method: Annotated[
        str, typer.Option(help="Solver: rl, random, exhaustive, evolution, …; milp and others of sensitivities.")
    ] = "rl",
    evaluations: Annotated[int, typer.Option(help="Policies that may be measured.", min=1)] = 50,
    enforcement: Annotated[str, typer.Option(help="Budget in rl: mask, reverse-order or haq-sweep.")] = "mask",
    reward: Annotated[str, typer.Option(help="Reward in rl: accuracy, wang2024-reconstructed, haq, …")] = "accuracy",
    seed: Seed = 0,
    input_widths: InputWidths = "8",
    store: Annotated[
        str | None,
        typer.Option(help="SQLite file, or SQLAlchemy URL, that keeps every evaluation; a restart resumes."),
    ] = None,
    workers: Annotated[int, typer.Option(help="Local processes that measure policies.", min=1)] = 1,
    scheduler: Annotated[str | None, typer.Option(help="Dask scheduler, such as tcp://host:8786.")] = None,
    result: Annotated[Path | None, typer.Option(help="JSON file for the result (`qir report` reads it).")] = None,
    output: Output = Path("model.quant.onnx"),
    profile: ProfileName = None,
    reduce_range: ReduceRange = False,
    weights: Weights = None,
    allow_mismatches: AllowMismatches = False,
) -> None:
    """Search bits by accuracy on the search-validation split, after correction and a short retraining.

    milp, pareto-dp, greedy and lagrangian measure no policy: they minimise the divergence of the outputs, which also
    guides evolution, surrogate and adrl.

    Ctrl-C ends the search and goes on with the best policy so far (exit code 130); a second one ends the command.

    qir search model.onnx --data calibration.npy --train train.npz --validation val.npz -b latency=0.35x
    """
    from qir.backends.costs.building import cost_table
    from qir.backends.costs.target import load_target
    from qir.backends.training.loop import protocol
    from qir.passes import export
    from qir.passes.parity.agreement import Labels, agreement_of_file
    from qir.search import AccuracyObjective, EvaluationProtocol, load_network, network_problem, prepare, solve
    from qir.search.evaluation.accuracy import read_samples, refuse_shared_images, search_identity
    from qir.search.evaluation.parallel import executor_of
    from qir.search.methods import ADDITIVE, GUIDED
    from qir.search.metrics.outputs.output_divergence import divergence_guide
    from qir.search.quantize import SENSITIVITY_IMAGES
    from qir.search.report.console import print_result, progress_bar

    for written in (output, result):
        if written is not None:
            make_folder(written)
    limits, hardware, module = parse_budgets(budget), load_target(target), load_network(model)
    original = module.clone()
    hardware = hardware.model_copy(update={"reduce_range": reduce_range or hardware.reduce_range})
    calibration = read_samples(data, "calibration", labelled=False)
    retraining, judged = read_samples(train, "retraining"), read_samples(validation, "search-validation")
    refuse_shared_images(retraining, judged)
    constraints = prepare(module, hardware, calibration.images, input_widths=input_widths, seed=seed)
    plan = EvaluationProtocol(retrain=protocol("short", seed=seed))
    objective = AccuracyObjective(
        module, constraints, calibration=calibration, validation=judged, retraining=retraining, protocol=plan
    )
    problem = network_problem(
        module,
        constraints,
        cost_table(module, hardware),
        budgets=limits,
        objective=None if method in ADDITIVE else objective,
        identity=search_identity(module, judged, plan, calibration, retraining),
    )
    if method in GUIDED:
        guide = divergence_guide(objective, calibration.images[:SENSITIVITY_IMAGES])
        problem = replace(problem, sensitivity=guide)
    options: dict[str, Any] = {"enforcement": enforcement, "reward": reward} if method == "rl" else {}
    with executor_of(workers, scheduler) as executor, progress_bar(evaluations, "search") as progress:
        where: dict[str, Any] = {"progress": progress, "store": store, "executor": executor}
        found = solve(problem, method, evaluations=evaluations, seed=seed, **where, **options)
    print_result(found, "divergence of the outputs" if found.minimised else "accuracy on search-validation")
    if result is not None:
        found.save(result)
    winner = objective.finalize(module, found.policy, protocol("final", seed=seed))
    splits = {"calibration": str(data.name), "retraining": str(train.name), "search-validation": str(validation.name)}
    how: dict[str, Any] = {
        "profile": profile,
        "target": hardware,
        "weights": weights,
        "allow_mismatches": allow_mismatches,
    }
    exported = export(winner, output, data=judged.images, splits=splits, **how)
    print_report(exported)
    labels = Labels(judged.labels, "search-validation")
    called = labels.split if found.minimised else f"{labels.split}, which chose the bits"
    print_agreement(agreement_of_file(exported.model, original, judged.images, called=called, labels=labels))
