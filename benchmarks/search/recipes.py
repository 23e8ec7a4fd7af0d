"""Every recipe on LeNet: what its policy is worth on the test split; writes the column of docs/reference/recipes.md.

python benchmarks recipes [--only hawq-v3,haq] && python tools/documents/recipes.py > docs/reference/recipes.md

LeNet on Fashion-MNIST, target npu-148 (pairs (2,1), (4,4), (8,8)), input included, latency at most 0.35x of 8/8. Every
recipe sees the calibration split (512 images, labels where it uses them); measuring ones may measure 20 policies. Its
policy is then measured after the channel-wise affine correction, without retraining, on the test split. The row `space`
measures every policy inside the budget, of which a random one and the best are what recipes are held against.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from setting import setting

from qir.backends import load_target
from qir.backends.torch.module import TorchModule
from qir.policy import Policy
from qir.search import Problem, recipe
from qir.search.evaluation.accuracy import accuracy_of, standard_error
from qir.search.recipes.table import RECIPES
from qir.search.solvers.exhaustive import feasible_rows

MEASURED = Path(__file__).resolve().parents[2] / "docs" / "reference" / "recipes_measured.json"
_BUDGET = {"latency": "0.35x"}
_EVALUATIONS = 20


SPACE = "space"
"""Name of the row of every policy inside the budget."""


def space(problem: Problem, test: Callable[[Policy], float]) -> dict[str, float]:
    """Return what a policy inside the budget is worth: the mean of all is what one drawn at random has."""
    start = time.process_time()
    rows = np.concatenate(list(feasible_rows(problem)))
    found = [test(problem.policy(row)) for row in rows]
    seconds = round(time.process_time() - start, 1)
    return {"policies": len(found), "mean": float(np.mean(found)), "best": max(found), "seconds": seconds}


def main() -> int:
    """Run the recipes that are asked for and merge what they reach into the file."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", maxsplit=1)[0])
    parser.add_argument("--only", default=",".join([*RECIPES, SPACE]))
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    where = setting("lenet", load_target("npu-148"), input_widths="all")
    problem, test = where.problem(_BUDGET, objective=len), where.objective(test=True)
    kept: dict[str, Any] = json.loads(MEASURED.read_text(encoding="utf-8")) if MEASURED.exists() else {}
    for name in arguments.only.split(","):
        if name == SPACE:
            kept[SPACE] = space(problem, test)
            print(f"{name:12s} {json.dumps(kept[name])}", flush=True)
            continue
        start = time.process_time()
        found = recipe(name).run(
            where.module,
            target=where.target,
            data=where.calibration.images,
            labels=where.calibration.labels,
            budget=_BUDGET,
            evaluations=_EVALUATIONS,
            input_widths="all",
        )
        seconds = time.process_time() - start
        trained = getattr(found, "module", None)
        accuracy = test(found.policy) if trained is None else accuracy_of(TorchModule(trained), where.test)
        kept[name] = {
            "accuracy": accuracy,
            "standard_error": standard_error(accuracy, len(where.test)),
            "ratio": problem.ratio("latency", {d: found.policy[d] for d in problem.names}),
            "measured": len(found.evaluations) if RECIPES[name].objective != "proxy" else 0,
            "seconds": round(seconds, 1),
            "policy": {decision: found.policy[decision] for decision in problem.names},
        }
        print(f"{name:12s} {json.dumps(kept[name])}", flush=True)
    temporary = MEASURED.with_name(f".{MEASURED.name}.{os.getpid()}")
    ordered = {name: kept[name] for name in [*RECIPES, SPACE] if name in kept}
    temporary.write_text(json.dumps(ordered, indent=1) + "\n", encoding="utf-8")
    temporary.replace(MEASURED)
    return 0


if __name__ == "__main__":
    sys.exit(main())
