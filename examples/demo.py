"""The main job on Fashion-MNIST: a LeNet becomes a mixed-precision network for an illustrative NPU."""

from pathlib import Path
from typing import Annotated, Any

import typer

from qir import models
from qir.search import Job, Splits
from qir.search.report.console import CONSOLE, progress_bar, resources


def main(
    output: Annotated[Path, typer.Option(help="Folder for model, guide and report.")] = Path("out/demo"),
    episodes: Annotated[int, typer.Option(help="Policies that the search may measure.")] = 12,
    budget: Annotated[str, typer.Option(help="Latency, as a share of uniform 8/8.")] = "0.35x",
    agent: Annotated[str, typer.Option(help="Searcher: rl (discrete PPO) or another method of `qir search`.")] = "rl",
    enforcement: Annotated[str, typer.Option(help="mask (forward) or reverse-order (the paper's).")] = "mask",
    reward: Annotated[str, typer.Option(help="accuracy, or wang2024-reconstructed.")] = "accuracy",
    seed: Annotated[int, typer.Option(help="Seed of search and retraining.")] = 0,
) -> None:
    """Search, retrain, export, compare; exit code 1 where the written file is not exact."""
    calibration, retraining, validation, test = map(models.fashion_mnist, models.FASHION_MNIST_SPLITS)
    splits = Splits.read(calibration, retraining=retraining, validation=validation, test=test)
    job = Job(
        models.path("lenet"),
        "npu-148",
        splits,
        budgets={"latency": budget},
        input_widths="all",
        seed=seed,
        sensitivity_images=len(calibration),
    )
    CONSOLE.print(job.uniform_costs((8, 4, 2)))

    options: dict[str, Any] = {"enforcement": enforcement, "reward": reward} if agent == "rl" else {}
    with progress_bar(episodes, "search") as bar:
        found = job.solve(agent, evaluations=episodes, progress=bar, **options)
    chance = job.solve("random", evaluations=len(found.evaluations))
    exact = job.solve("milp")

    job.adopt(found)
    rows: dict[str, Any] = {
        "uniform 8/8": 8,
        "uniform 4/4": 4,
        "uniform 2/1": 2,
        f"random, {len(chance.evaluations)} evaluations": chance.policy,
        "exact, additive sensitivities": exact.policy,
        f"{agent}, {len(found.evaluations)} evaluations": found.policy,
    }
    CONSOLE.print(job.compare(rows))
    written = job.export(output / "model.quant.onnx")
    done = job.outcome(compare=False)
    if resources(done, done.report(output / "report.html")) or written.mismatches or written.allowed:
        raise typer.Exit(1)


if __name__ == "__main__":
    typer.run(main)
