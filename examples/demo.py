"""The main job on Fashion-MNIST: a LeNet becomes a mixed-precision network for an illustrative NPU."""

from pathlib import Path
from typing import Annotated, Any

import typer

from qir import models
from qir.backends import cost_table, load_target
from qir.backends.training.loop import protocol
from qir.passes import export
from qir.search import AccuracyObjective, Budget, Comparison, EvaluationProtocol, load_network, prepare, solve
from qir.search import network_problem as problem_of
from qir.search.metrics.outputs.output_divergence import divergence_guide
from qir.search.report.console import closing_table, cost_lines, progress_bar, resources
from qir.search.report.page import search_report


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
    target, module = load_target("npu-148"), load_network(models.path("lenet"))
    calibration, retraining, validation, test = map(models.fashion_mnist, models.FASHION_MNIST_SPLITS)
    constraints = prepare(module, target, calibration.images, input_widths="all")
    table = cost_table(module, target)
    cost_lines(table, constraints, widths=(8, 4, 2))

    plan = EvaluationProtocol(retrain=protocol("short", seed=seed))
    data: dict[str, Any] = {"calibration": calibration, "validation": validation, "retraining": retraining}
    objective = AccuracyObjective(module, constraints, **data, protocol=plan)
    budgets = {"latency": Budget.parse(budget)}
    problem = problem_of(module, constraints, table, budgets=budgets, objective=objective)
    options: dict[str, Any] = {"enforcement": enforcement, "reward": reward} if agent == "rl" else {}
    with progress_bar(episodes, "search") as bar:
        found = solve(problem, agent, evaluations=episodes, seed=seed, progress=bar, **options)
    chance = solve(problem, "random", evaluations=len(found.evaluations), seed=seed)
    proxy = divergence_guide(objective, calibration.images)
    exact = solve(problem_of(module, constraints, table, budgets=budgets, sensitivity=proxy), "milp")

    comparison = Comparison(module, objective, problem, "latency", test, protocol("final", seed=seed))
    comparison.add_uniform({"uniform 8/8": 8, "uniform 4/4": 4, "uniform 2/1": 2})
    comparison.add(f"random, {len(chance.evaluations)} evaluations", chance.policy)
    comparison.add("exact, additive sensitivities", exact.policy)
    winner = comparison.add(f"{agent}, {len(found.evaluations)} evaluations", found.policy)
    closing_table(comparison)
    splits = {name: samples.split for name, samples in {**data, "test": test}.items()}
    written = export(winner, output / "model.quant.onnx", target=target, data=test.images, splits=splits)
    report = search_report(comparison, table, {agent: found, "random": chance}).write(output / "report.html")
    if resources(written, winner, test.images, report) or written.mismatches or written.allowed:
        raise typer.Exit(1)


if __name__ == "__main__":
    typer.run(main)
