"""Measured searches on residual networks: every method next to random, and ResNet-20's front and budgets.

python benchmarks residual [--only spike,resnet] [--seeds 5] [--network checkpoint.onnx --cifar FOLDER_OR_TAR]

`spike`: the shipped residual network under the operand pairs (2,1), (4,4), (8,8) at 0.3x latency; the objective is PTQ
accuracy after the affine correction. `resnet`: ResNet-20, weights of 2, 4 and 8 bits: the front of one sensitivity
table, and reinforcement learning, evolution and the exact solver at equal budgets. A line that begins with SHORT misses
its goal.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

import numpy as np
import torch
from setting import Remembered, Setting, setting, verdict, weights_only

from qir.backends import load_target
from qir.search import solve
from qir.search.evaluation.accuracy import accuracy_of, standard_error

_MARKS = (25, 50)
_BUDGETS = ("6", "4", "3")
_FRONT_SECONDS = 60.0
_FRONT_POINTS = 20


def spike(seeds: int, methods: list[str], images: int, correction_images: int) -> None:
    """Gap in points of every method to the best policy that any of them met."""
    where = setting("residual", load_target("npu-148"), input_widths="all")
    objective = Remembered(where.objective(images, correction_images=correction_images))
    problem = where.problem({"latency": "0.3x"}, objective=objective)
    found: dict[str, list[list[float]]] = {}
    for method in methods:
        start = time.process_time()
        options = {"rl": {"record": False}, "haq": {"reward": "accuracy"}, "wang2024": {"reward": "accuracy"}}
        found[method] = []
        for seed in range(seeds):
            result = solve(problem, method, evaluations=max(_MARKS), seed=seed, **options.get(method, {}))
            found[method].append([result.best_after(mark) for mark in _MARKS])
        print(f"      {method}: {time.process_time() - start:.0f} CPU s", file=sys.stderr, flush=True)
    best = max(objective.values.values())
    error = standard_error(best, images)
    print(
        f"{where.name}, latency 0.3x, {images} images, {len(objective.values)} policies measured: best "
        f"{100 * best:.2f} % (standard error {100 * error:.2f}); gap in points to it, mean ± 95 % interval, "
        f"{seeds} seeds"
    )
    for method, rows in found.items():
        gaps = 100 * (best - np.array(rows))
        half = 1.96 * gaps.std(0, ddof=1) / seeds**0.5
        columns = zip(_MARKS, gaps.mean(0), half, strict=True)
        cells = ", ".join(f"{m} evaluations: {g:.2f} ± {h:.2f}" for m, g, h in columns)
        print(f"      {method:10s} {cells}", flush=True)


def resnet(where: Setting, evaluations: int, images: int) -> None:
    """The front of one sensitivity table, then three methods at three budgets."""
    start = time.process_time()
    proxy = where.sensitivity()
    measured = time.process_time() - start
    start = time.process_time()
    front = solve(where.problem({"average-bits": "8"}, sensitivity=proxy), "pareto-dp").front
    seconds = time.process_time() - start
    good = len(front) >= _FRONT_POINTS and seconds < _FRONT_SECONDS
    print(
        f"{verdict(good)}{where.name}: {len(front)} points on the front of one sensitivity table, {seconds:.1f} CPU s "
        f"beyond the sensitivity pass of {measured:.1f} (goal {_FRONT_POINTS} points in {_FRONT_SECONDS:g} s)",
        flush=True,
    )
    objective = Remembered(where.objective(images, correction_images=64))
    with objective.network.quantizers_off():
        whole = accuracy_of(objective.network, where.validation.take(images))
    error = 100 * standard_error(whole, images)
    print(f"      float {100 * whole:.2f} %; PTQ on {images} images, standard error {error:.2f}")
    for limit in _BUDGETS:
        budget = {"average-bits": limit}
        exact = solve(where.problem(budget, sensitivity=proxy), "milp")
        cells = [f"milp on sensitivities {100 * objective(exact.policy):.2f} (1 measured; {exact.certificate})"]
        guided = where.problem(budget, sensitivity=proxy, objective=objective)
        for method in ("random", "evolution", "rl"):
            options = {"record": False} if method == "rl" else {}
            result = solve(guided, method, evaluations=evaluations, seed=0, **options)
            cells.append(f"{method} {100 * result.value:.2f}")
        print(f"      <= {limit} average bits, {evaluations} evaluations, accuracy %: " + ", ".join(cells), flush=True)


def main() -> int:
    """Print the figures that are asked for."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", maxsplit=1)[0])
    parser.add_argument("--only", default="spike,resnet")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--methods", default="random,evolution,surrogate,rl,haq,wang2024")
    parser.add_argument("--images", type=int, default=300, help="of the search-validation split")
    parser.add_argument("--evaluations", type=int, default=30, help="of each method on ResNet-20")
    parser.add_argument("--network", type=Path, help="ResNet-20 trained on CIFAR-10, an ONNX file")
    parser.add_argument("--cifar", type=Path, help="images of CIFAR-10: official folder, or an archive")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    wanted = set(arguments.only.split(","))
    if "spike" in wanted:
        spike(arguments.seeds, arguments.methods.split(","), arguments.images, 64)
    if "resnet" in wanted:
        if arguments.network is not None and arguments.cifar is not None:
            where = setting(str(arguments.network), weights_only(), cifar=arguments.cifar)
        else:
            print("      no --network and --cifar given: ResNet-20 on Fashion-MNIST, which comes with qir, stands in")
            where = setting("resnet-20", weights_only())
        resnet(where, arguments.evaluations, arguments.images)
    return 0


if __name__ == "__main__":
    sys.exit(main())
