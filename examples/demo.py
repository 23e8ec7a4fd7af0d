"""The main job on real data: a LeNet with BatchNorm becomes a mixed-precision network that ONNX Runtime runs.

Fashion-MNIST; the NPU is illustrative (see its target file). `python examples/demo.py --help` shows the options.
"""

from pathlib import Path
from typing import Annotated

import typer

import qir.models
from qir.backends import load_target
from qir.backends.retraining import protocol
from qir.passes import export
from qir.search import (
    AccuracyObjective, Budget, Comparison, EvaluationProtocol, load_network, network_problem, output_divergence, prepare, solve,
)  # fmt: skip
from qir.search.console import closing_table, cost_lines, progress_bar, resources
from qir.search.report import search_report


def main(
    output: Annotated[Path, typer.Option(help="Folder for model, guide and report.")] = Path("out/demo"),
    episodes: Annotated[int, typer.Option(help="Policies that the search may measure.")] = 12,
    budget: Annotated[str, typer.Option(help="Latency, as a share of uniform 8/8.")] = "0.35x",
    agent: Annotated[str, typer.Option(help="Searcher: rl (discrete PPO), or any name of `qir search --help`.")] = "rl",
    enforcement: Annotated[str, typer.Option(help="mask (forward) or reverse-order (seed paper).")] = "mask",
    reward: Annotated[str, typer.Option(help="accuracy, or wang2024-reconstructed.")] = "accuracy",
    seed: Annotated[int, typer.Option(help="Seed of search and retraining.")] = 0,
) -> None:
    """Search, retrain, export, compare."""
    target = load_target("npu-148")
    data = {
        split: qir.models.fashion_mnist(split) for split in ("calibration", "retraining", "search-validation", "test")
    }
    module = load_network(qir.models.path("lenet"))
    constraints = prepare(module, target, data["calibration"].images, input_widths="all")
    table = target.cost_model().table(module, target)
    cost_lines(table, constraints, widths=(8, 4, 2))

    short, final = protocol("short", seed=seed), protocol("final", seed=seed)
    objective = AccuracyObjective(
        module, constraints, calibration=data["calibration"], validation=data["search-validation"], retraining=data["retraining"],
        protocol=EvaluationProtocol(retrain=short),
    )  # fmt: skip
    budgets = {"latency": Budget.parse(budget)}
    problem = network_problem(module, constraints, table, budgets=budgets, objective=objective)
    options = {"enforcement": enforcement, "reward": reward} if agent == "rl" else {}
    with progress_bar(episodes, "search") as progress:
        found = solve(problem, agent, evaluations=episodes, seed=seed, progress=progress, **options)
    by_chance = solve(problem, "random", evaluations=len(found.evaluations), seed=seed)
    objective.reset()
    proxy, _ = output_divergence(objective.network, constraints, data["calibration"].images)
    exact = solve(network_problem(module, constraints, table, budgets=budgets, sensitivity=proxy), "milp")

    comparison = Comparison(module, objective, problem, "latency", data["test"], final)
    comparison.add_float()
    for label, bits in (("uniform 8/8", 8), ("uniform 4/4", 4), ("uniform 2/1", 2)):
        comparison.add(label, {name: bits for name in constraints.decisions})
    comparison.add(f"random, {len(by_chance.evaluations)} evaluations", by_chance.policy)
    comparison.add("exact, additive sensitivities", exact.policy)
    winner = comparison.add(f"{agent}, {len(found.evaluations)} evaluations", found.policy)
    closing_table(comparison)

    splits = {name: samples.split for name, samples in data.items()}
    written = export(
        winner, output / "model.quant.onnx", profile="qcdq", target=target, data=data["test"].images, splits=splits
    )
    report = search_report(comparison, table, {agent: found, "random": by_chance}).write(output / "report.html")
    resources(written, winner, data["test"].images, report)


if __name__ == "__main__":
    typer.run(main)
