"""`qir search`: search bits by measured accuracy or as a paper does, retrain the winner, export it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from qir.cli.answers import Answer
from qir.cli.job_files import save_job
from qir.cli.options import JobOptions, Model
from qir.cli.samples import ImageOptions
from qir.cli.written import print_outcome
from qir.errors import SearchError

if TYPE_CHECKING:
    from qir.search.job.stages import Job
    from qir.search.problem.result import Result

NO_RETRAINING = "none"


@dataclass(frozen=True)
class SearchOptions:
    """How bits are searched; what is not given is left to the method, and what it does not take is refused."""

    method: Annotated[
        str | None,
        typer.Option(help="Solver: rl (default), random, exhaustive, evolution, …; milp and others of sensitivities."),
    ] = None
    recipe: Annotated[
        str | None, typer.Option(help="Published method in place of --method, such as hawq-v3 (`qir recipes`).")
    ] = None
    evaluations: Annotated[int | None, typer.Option(help="Policies that may be measured, 50 unless given.", min=1)] = (
        None
    )
    enforcement: Annotated[str | None, typer.Option(help="Budget in rl: mask, reverse-order or haq-sweep.")] = None
    reward: Annotated[
        str | None, typer.Option(help="Reward in rl: accuracy, wang2024-reconstructed, haq, … or an entry point's.")
    ] = None
    retrain: Annotated[
        str | None,
        typer.Option(help="How each policy is retrained: none, short (default), wang2024, haq, releq-short, …."),
    ] = None
    training: Annotated[
        str | None,
        typer.Option(
            help="Function of yours that trains instead: `module:function`, called (network, images, labels)."
        ),
    ] = None
    workers: Annotated[int, typer.Option(help="Local processes that measure policies.", min=1)] = 1
    scheduler: Annotated[str | None, typer.Option(help="Dask scheduler, such as tcp://host:8786.")] = None

    def check(self) -> None:
        """Refuse what cannot be, before any work.

        Raises:
            QirError: an unknown name, or an option that the method or recipe does not take.
        """
        from qir.backends.training.protocol import protocol
        from qir.search.environment.rewards import REWARDS
        from qir.search.methods import ADDITIVE, check_options
        from qir.search.recipes.table import recipe
        from qir.support.hooks import function_of

        if self.recipe is not None:
            refused = ("method", "enforcement", "reward", "training", "scheduler")
            trains = recipe(self.recipe).objective == "accuracy"
            self._refuse(f"recipe {self.recipe!r}", refused if trains else (*refused, "retrain"))
        elif self.solver in ADDITIVE:
            self._refuse(f"method {self.solver!r} measures no policy, and", ("evaluations", "scheduler"))
        check_options(self.solver, self.of_method)
        if self.reward is not None:
            _ = REWARDS[self.reward]
        if self.retrain not in (None, NO_RETRAINING):
            protocol(self.retrain)
        if self.training is not None:
            function_of(self.training)

    def _refuse(self, who: str, names: tuple[str, ...]) -> None:
        given = [f"--{name}" for name in names if getattr(self, name) is not None]
        given += ["--workers"] if self.workers > 1 else []
        if given:
            raise SearchError(f"{who} takes no {', '.join(given)}: leave it out")

    @property
    def solver(self) -> str:
        """Name of the method."""
        return self.method or "rl"

    @property
    def of_method(self) -> dict[str, Any]:
        """Options of the method's function."""
        given = {"enforcement": self.enforcement, "reward": self.reward}
        return {name: value for name, value in given.items() if value is not None}


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
    how: SearchOptions,
    images: ImageOptions,
    train: Annotated[
        Path | None, typer.Option(help="Retraining split: class folders, or .npz with `images` and `labels`.")
    ] = None,
    validation: Annotated[
        Path | None, typer.Option(help="Search-validation split, likewise; no image may be in both.")
    ] = None,
    result: Annotated[Path | None, typer.Option(help="JSON file for the result (`qir report` reads it).")] = None,
    test: Annotated[
        Path | None, typer.Option(help="Test split, likewise: the written file is measured on it, once.")
    ] = None,
    compare: Annotated[bool, typer.Option(help="Retrain and measure uniform widths too.")] = False,
) -> Answer:
    """Search bits by accuracy on the search-validation split, after correction and a short retraining, or by a recipe.

    milp, pareto-dp, greedy and lagrangian measure no policy: they minimise the divergence of the outputs, which also
    guides evolution, surrogate and adrl. `--retrain none` measures policies as they are; without a `--train` split
    nothing is retrained either.

    Ctrl-C ends the search and goes on with the best policy so far (exit code 130); a second one ends the command.

    qir search model.onnx --data calibration.npy --train train.npz --validation val.npz -t npu-148 -b latency=0.35x

    qir search model.onnx --data photos/ --recipe hawq-v3 -t npu-148 -b latency=0.5x
    """
    from qir.search import Job, Splits
    from qir.search.report.console import CONSOLE, print_result

    how.check()
    job.make_folders(result)
    splits = Splits.read(data, retraining=train, validation=validation, test=test, images=images.read())
    run = Job(model, splits=splits, **job.of_job())
    for line in run.splits.notes:
        CONSOLE.print(line, soft_wrap=True)
    found = _searched(run, how, job.seed)
    print_result(found, "divergence of the outputs" if found.minimised else "accuracy on search-validation")
    if result is not None:
        found.save(result)
    run.export(job.output, **job.of_file())
    done = run.outcome(compare=compare)
    print_outcome(done, job.save, job.report)
    return Answer({**done.to_json(), "job": save_job(done.written.model)})


def _searched(run: Job, how: SearchOptions, seed: int) -> Result:
    """Return the result of the method or recipe, which the job goes on with."""
    from qir.search.evaluation.parallel import workers_of
    from qir.search.methods import ADDITIVE
    from qir.search.recipes.table import recipe
    from qir.search.report.console import progress_bar, stage_bar
    from qir.support.progress import told

    if how.recipe is None:
        _divide(run, how, seed)
    else:
        _equip(run, how, seed)
    with stage_bar() as stages, told(stages):
        _ = run.constraints
    if how.recipe is not None:
        with progress_bar(how.evaluations or 50, "search") as progress:
            return recipe(how.recipe).decide(run, evaluations=how.evaluations, progress=progress)
    if how.solver in ADDITIVE:
        return run.solve(how.solver, **how.of_method)
    count = how.evaluations or 50
    with workers_of(how.workers, how.scheduler) as executor, progress_bar(count, "search") as progress:
        return run.solve(how.solver, evaluations=count, progress=progress, executor=executor, **how.of_method)


def _equip(run: Job, how: SearchOptions, seed: int) -> None:
    """Give a job the quantizers of a recipe, and the protocol by which it retrains every policy, where one is named."""
    from qir.backends.training.protocol import protocol
    from qir.search import EvaluationProtocol
    from qir.search.recipes.table import recipe

    recipe(how.recipe or "").equip(run)
    if how.retrain in (None, NO_RETRAINING):
        return
    if run.splits.retraining is None:
        raise SearchError("--retrain trains on labelled samples: give them with --train")
    run.protocol = EvaluationProtocol(retrain=protocol(how.retrain, seed=seed))


def _divide(run: Job, how: SearchOptions, seed: int) -> None:
    """Settle the splits and the protocol that policies are measured by; methods of sensitivities need no labels."""
    from qir.backends.training.protocol import protocol
    from qir.search import EvaluationProtocol
    from qir.search.methods import ADDITIVE

    measures = how.solver not in ADDITIVE or run.splits.labels is not None
    if measures and run.splits.retraining is None and run.splits.validation is None:
        run.splits = run.splits.divided(run.network, seed=seed)
    if how.retrain == NO_RETRAINING:
        run.splits = replace(run.splits, retraining=None)
    elif run.splits.retraining is None and (how.retrain or how.training):
        raise SearchError("--retrain and --training train on labelled samples: give them with --train")
    elif how.training is not None:
        run.protocol = EvaluationProtocol(train=how.training)
    elif how.retrain is not None:
        run.protocol = EvaluationProtocol(retrain=protocol(how.retrain, seed=seed))
