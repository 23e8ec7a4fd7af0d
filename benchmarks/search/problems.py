"""Figures of the search on problems without a network: every method next to random, solver times, overheads.

python benchmarks search [--problems 10] [--seeds 2] [--methods random,evolution,surrogate,rl] [--chains 50,200]
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from golden import chain, describe, golden, releq_problem

from qir.policy import Policy
from qir.search import Budget, Decision, LocalProcesses, Problem, QuantizationEnv, solve

_MARKS = (25, 50, 100)
_AGENTS = frozenset({"rl", "haq", "wang2024", "adrl", "autoq", "releq"})
_LONGEST_FRONT = 110


def landscape(seed: int) -> Problem:
    """A synthetic accuracy table: losses that fall with the width, interactions, a cliff, noise of the measurement."""
    rng = np.random.default_rng(1000 + seed)
    count = int(rng.choice([4, 5, 6, 8, 10]))
    widths = ((2, 4, 8), (2, 3, 4, 5, 8), (1, 2, 4, 8))[int(rng.integers(3))]
    count = 6 if len(widths) ** count > 400_000 else count
    bits = np.array(widths, dtype=float)
    base = rng.exponential(size=count) ** 1.5
    loss = base[:, None] * np.exp(-rng.uniform(0.5, 1.2, size=(count, 1)) * (bits - 1))
    interaction = rng.normal(size=(count, count)) * 0.5 * rng.random()
    steepness, noise, key = rng.uniform(0.5, 4), rng.uniform(0.0, 0.6), int(rng.integers(1 << 30))
    narrow = (bits.max() - bits) / np.ptp(bits)
    weights = rng.exponential(size=count) if rng.random() < 0.5 else np.ones(count)
    names = [f"layer{k}" for k in range(count)]

    def accuracy(policy: Policy) -> float:
        chosen = [widths.index(policy[name]) for name in names]
        low = narrow[chosen]
        total = loss[range(count), chosen].sum() + 0.1 * base.mean() * max(-1.0, float(low @ interaction @ low))
        exact = 10 + 89 * np.exp(-steepness * max(total, 0.0))
        return float(np.clip(exact + noise * np.random.default_rng([key, *chosen]).normal(), 0, 100))

    return Problem(
        [Decision(name, widths) for name in names],
        costs={"bits": (weights[:, None] * bits[None]).round(3)},
        budgets={"bits": Budget(ratio=float(rng.choice([0.3, 0.4, 0.5, 0.6])))},
        objective=accuracy,
    )


def methods_on(problems: list[Problem], methods: list[str], seeds: int, title: str) -> None:
    """Print the mean gap to the optimum of every method, and whether it is surely less than that of the first one.

    A method beats the first where the 95 % interval of the difference, problem by problem and seed by seed, is above 0.
    """
    first: npt.NDArray[np.float64] | None = None
    print(f"\n{title}: gap in points to the optimum, mean ± 95 % interval, {len(problems)} problems x {seeds} seeds")
    optima = [solve(problem, "exhaustive").value for problem in problems]
    for method in methods:
        start, rows = time.process_time(), []
        options: dict[str, Any] = {"accuracy_scale": 0.01} if method in _AGENTS else {}
        options |= {"record": False} if method in {"rl", "releq"} else {}
        for problem, optimum in zip(problems, optima, strict=True):
            for seed in range(seeds):
                result = solve(problem, method, evaluations=max(_MARKS), seed=seed, **options)
                rows.append([optimum - result.best_after(mark) for mark in _MARKS])
        found, seconds = np.array(rows), (time.process_time() - start) / len(rows)
        first = found if first is None else first
        gain = first - found
        half = 1.96 * gain.std(0, ddof=1) / np.sqrt(len(gain)) if len(gain) > 1 else np.full(len(_MARKS), np.inf)
        better = [mark for mark, low in zip(_MARKS, gain.mean(0) - half, strict=True) if low > 0]
        verdict = f"beats {methods[0]} after {better}" if better else f"does not beat {methods[0]}"
        print(f"  {method:12s} {describe(found, _MARKS)}   {seconds:.2f} CPU s a run; {verdict}", flush=True)


def solvers(lengths: list[int]) -> None:
    """Print value, certificate and time of the additive solvers on chains; the dynamic program on short ones."""
    print("\nadditive sensitivity on chains with legal operand pairs, latency 0.35x: value, certificate, seconds")
    for layers in lengths:
        problem = chain(layers)
        for method in ("milp", "lagrangian", "greedy", *(["pareto-dp"] if layers <= _LONGEST_FRONT else [])):
            result = solve(problem, method)
            print(
                f"  {layers:4d} layers {method:12s} {result.value:.6g}  {result.certificate}  {result.seconds:.2f} s"
                f"  front {len(result.front)}",
                flush=True,
            )


def constant(policy: Policy) -> float:
    """An objective that costs nothing."""
    return float(len(policy))


def overheads() -> None:
    """Print what an evaluation and an environment step cost next to the objective."""
    problem = Problem(
        [Decision(f"layer{i}", (2, 4, 8)) for i in range(20)], objective=constant, identity={"model": "none"}
    )

    def clock(work: Callable[[], object], count: int) -> float:
        start = time.perf_counter()
        work()
        return 1e3 * (time.perf_counter() - start) / count

    print("\noverhead, ms")
    print(f"  evaluation in process        {clock(lambda: solve(problem, 'random', evaluations=1000), 1000):.3f}")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "store.db"
        stored = clock(lambda: solve(problem, "random", evaluations=200, store=path), 200)
        print(f"  with an SQLite store         {stored:.3f}")
    with LocalProcesses(2) as workers:
        solve(problem, "random", evaluations=10, executor=workers)
        shared = clock(lambda: solve(problem, "random", evaluations=1000, executor=workers), 1000)
        print(f"  in two local processes       {shared:.3f}")
    env = QuantizationEnv(chain(54))

    def episode() -> None:
        env.reset()
        done = False
        while not done:
            _, _, done, _, _ = env.step(int(np.flatnonzero(env.action_masks())[0]))

    print(f"  environment step, 108 masks  {clock(episode, 108):.3f}")


def main() -> int:
    """Print every figure."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", maxsplit=1)[0])
    parser.add_argument("--problems", type=int, default=10)
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--methods", default="random,evolution,nsga2,surrogate,rl")
    parser.add_argument("--chains", help="only the additive solvers, on chains of so many layers: 50,200,500,2000")
    arguments = parser.parse_args()
    if arguments.chains:
        solvers([int(layers) for layers in arguments.chains.split(",")])
        return 0
    methods = arguments.methods.split(",")
    methods_on([landscape(i) for i in range(arguments.problems)], methods, arguments.seeds, "synthetic tables")
    table = golden("releq_lenet_accuracy.json")
    if table is not None:
        for limit in (3.0, 4.0):
            methods_on(
                [releq_problem(table, limit)], methods, 10 * arguments.seeds, f"ReLeQ LeNet, mean bits <= {limit:g}"
            )
    solvers([21, 54, 110])
    overheads()
    return 0


if __name__ == "__main__":
    sys.exit(main())
