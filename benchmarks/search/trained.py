"""Search on trained networks: throughput of evaluations, the front of LeNet, the figures of mixed-precision peers.

python benchmarks trained [--only throughput,front,peers] [--seeds 5]
python benchmarks trained --network FILE.onnx [--cifar FOLDER_OR_TAR]      # the peers' figures on any network

A line that begins with SHORT misses its goal.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from setting import Remembered, Setting, setting, verdict, weights_only

from qir.backends.torch.module import TorchModule
from qir.backends.training.affine_correction import fit_affine_correction, pre_activations
from qir.passes.analysis.quantized_layers import quantized_layers
from qir.policy import Policy
from qir.search import solve
from qir.search.evaluation.accuracy import accuracy_of, standard_error
from qir.search.solvers.exhaustive import rows_of

_BUDGETS = (6, 4, 3)
_CPU_GOAL = 7.0
_FRONT_BUDGETS = ("2.5", "3", "4", "6")


def plain_accuracy(where: Setting, policy: Policy, images: int, *, correct: bool) -> float:
    """A plain torch loop: a new network for each policy, everything quantized, fitted and computed anew."""
    network = TorchModule(where.module)
    network.set_policy(where.constraints.complete(dict(policy)))
    correction = None
    if correct:
        batch = torch.from_numpy(where.calibration.images[:256])
        layers = [layer.node for layer in quantized_layers(where.module.graph)]
        correction = fit_affine_correction(network, pre_activations(network, layers, batch), batch)
    return accuracy_of(network, where.validation.take(images), hook=correction)


def throughput(where: Setting, policies: list[Policy], images: int, goal: float | None) -> None:
    """Policies a CPU second with reuse and in a plain loop, on the same policies, with equal values."""
    for correct in (False, True):
        objective = where.objective(images)
        if not correct:
            objective._corrector = None
        start = time.process_time()
        found = [objective(policy) for policy in policies]
        reused = len(policies) / (time.process_time() - start)
        some = policies[:: max(1, len(policies) // 8)]
        start = time.process_time()
        plain = [plain_accuracy(where, policy, images, correct=correct) for policy in some]
        loop = len(some) / (time.process_time() - start)
        equal = plain == found[:: max(1, len(policies) // 8)]
        good = equal and (goal is None or reused >= goal * loop)
        print(
            f"{verdict(good)}{where.name}, {len(policies)} policies, {images} images, "
            f"{'corrected' if correct else 'PTQ'}: {reused:.2f} policies a CPU second with reuse, {loop:.2f} in a "
            f"plain torch loop ({reused / loop:.1f}x{'' if goal is None else f', goal {goal:g}x'}); "
            f"values {'equal' if equal else 'DIFFER'}",
            flush=True,
        )


def hypervolume(points: list[tuple[float, float]]) -> float:
    """Area that points (average bits, accuracy) dominate, up to 8 bits and accuracy 0."""
    from pymoo.indicators.hv import HV

    return float(HV(ref_point=np.array([8.001, 0.0]))(np.array([[bits, -accuracy] for bits, accuracy in points])))


def front(where: Setting, seeds: int) -> None:
    """Hypervolume of each method after 20 and 40 evaluations against the true front of all policies."""
    objective = Remembered(where.objective())
    every = where.problem({"average-bits": "8"}, objective=objective)
    for rows in rows_of(every):
        for row in rows:
            objective(every.policy(row))
    points = {policy: (every.cost("average-bits", policy), value) for policy, value in objective.values.items()}
    true, least = hypervolume(list(points.values())), min(bits for bits, _ in points.values())
    print(f"{where.name}: {len(points)} policies measured, least {least:g} average bits, hypervolume {true:.4f}")
    proxy = where.sensitivity()
    additive = where.problem({"average-bits": "8"}, sensitivity=proxy)
    order = [entry.policy for entry in solve(additive, "pareto-dp").front]
    for count in (20, 40):
        spread = [
            order[i] for i in np.unique(np.linspace(0, len(order) - 1, min(count, len(order))).round().astype(int))
        ]
        share = hypervolume([points[policy] for policy in spread]) / true
        print(
            f"      pareto-dp on sensitivities, {len(spread)} of its front measured: {100 * share:.2f} % of the front"
        )
    for method in ("random", "nsga2", "evolution", "surrogate", "apq", "rl"):
        for count in (20, 40):
            shares = [_share(where, objective, method, count, seed, points) / true for seed in range(seeds)]
            half = 1.96 * np.std(shares, ddof=1) / len(shares) ** 0.5
            print(
                f"      {method:10s} {count} evaluations: {100 * np.mean(shares):.2f} ± {100 * half:.2f} % of the "
                f"front ({seeds} seeds)",
                flush=True,
            )


def _share(
    where: Setting, objective: Remembered, method: str, count: int, seed: int, points: dict[Policy, tuple[float, float]]
) -> float:
    """Hypervolume of one run; methods with one objective share their evaluations among four budgets."""
    budgets = ("8",) if method in {"random", "nsga2"} else _FRONT_BUDGETS
    tried = []
    for limit in budgets:
        problem = where.problem({"average-bits": limit}, objective=objective)
        options = {"record": False} if method == "rl" else {}
        result = solve(problem, method, evaluations=count // len(budgets), seed=seed, **options)
        tried += [points[entry.policy] for entry in result.evaluations]
    return hypervolume(tried)


def peers(where: Setting, images: int, *, exhaustive: bool) -> None:
    """Search time, and accuracy at average weight bits on the test split, against the best that is known."""
    start = time.process_time()
    proxy = where.sensitivity()
    found = {bits: solve(where.problem({"average-bits": str(bits)}, sensitivity=proxy), "milp") for bits in _BUDGETS}
    seconds = time.process_time() - start
    print(
        f"{verdict(seconds < _CPU_GOAL)}{where.name}: sensitivities and three exact searches in {seconds:.1f} CPU s "
        f"(goal {_CPU_GOAL:g}; Sony MCT 7 to 12, AIMET 234 on such networks)",
        flush=True,
    )
    test = Remembered(where.objective(images, test=True))
    network = TorchModule(where.module)
    with network.quantizers_off():
        whole = accuracy_of(network, where.test.take(images))
    validation = Remembered(where.objective())
    for bits, result in found.items():
        accuracy, error = test(result.policy), standard_error(whole, images)
        best, name = (_enumerated if exhaustive else _rivals)(where, bits, validation, test, proxy)
        lost = whole - accuracy
        good = accuracy >= best - error and (exhaustive or bits != 3 or lost <= 0.015)
        print(
            f"{verdict(good)}{where.name}, <= {bits} average bits: {100 * accuracy:.2f} % "
            f"({result.costs['average-bits']:.2f} bits, {result.costs['size'] / 8:,.0f} bytes), loses {100 * lost:.2f} "
            f"points; best known {100 * best:.2f} % ({name}); standard error {100 * error:.2f}",
            flush=True,
        )


def _enumerated(
    where: Setting, bits: int, validation: Remembered, test: Callable[[Policy], float], proxy: list[list[float]]
) -> tuple[float, str]:
    """Test accuracy of the policy that is best on the validation split among all that meet the budget."""
    del proxy
    result = solve(where.problem({"average-bits": str(bits)}, objective=validation), "exhaustive")
    return test(result.policy), "exhaustive on the validation split"


def _rivals(
    where: Setting, bits: int, validation: Remembered, test: Callable[[Policy], float], proxy: list[list[float]]
) -> tuple[float, str]:
    """Best test accuracy among the policies of other solvers and metrics."""
    from qir.search.metrics.measuring import measure

    del validation
    images, labels = where.calibration.images[:64], where.calibration.labels[:64]
    policies = {}
    for metric in ("output-divergence", "output-mse", "second-order", "noise-to-signal", "empirical-fisher"):
        table = proxy
        if metric != "output-divergence":
            found = measure(metric, where.module, where.constraints, images, labels=labels)
            table = found.per_decision(where.constraints)
        for solver in ("milp", "greedy") if metric == "output-divergence" else ("milp",):
            problem = where.problem({"average-bits": str(bits)}, sensitivity=table)
            policies[f"{metric}, {solver}"] = solve(problem, solver).policy
    return max((test(policy), name) for name, policy in policies.items())


def main() -> int:
    """Print the figures that are asked for."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", maxsplit=1)[0])
    parser.add_argument("--only", default="throughput,front,peers")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--network", nargs="+", default=[], help="networks on Fashion-MNIST (with --cifar on CIFAR-10)")
    parser.add_argument("--cifar", type=Path, help="images of CIFAR-10: official folder, or an archive")
    parser.add_argument("--images", type=int, default=2000, help="of the test split, for --network")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    for network in arguments.network:
        peers(setting(network, weights_only(), cifar=arguments.cifar), arguments.images, exhaustive=False)
    if arguments.network:
        return 0
    wanted = set(arguments.only.split(","))
    lenet = setting("lenet", weights_only())
    if "throughput" in wanted:
        problem = lenet.problem({}, objective=len)
        policies = [entry.policy for entry in solve(problem, "random", evaluations=81).evaluations]
        throughput(lenet, policies, 2000, 5.0)
    if "front" in wanted:
        front(lenet, arguments.seeds)
    if "peers" in wanted:
        peers(lenet, 10_000, exhaustive=True)
    if wanted & {"throughput", "peers"}:
        resnet = setting("resnet-20", weights_only())
        if "throughput" in wanted:
            problem = resnet.problem({"average-bits": "4"}, sensitivity=resnet.sensitivity(32))
            guided = solve(problem, "evolution", evaluations=24).evaluations
            throughput(resnet, [entry.policy for entry in guided], 500, None)
        if "peers" in wanted:
            peers(resnet, 2000, exhaustive=False)
    return 0


if __name__ == "__main__":
    sys.exit(main())
