"""Golden checks of the search: published tables and synthetic chains, one line each; exit code 1 if one fails.

python benchmarks golden-search [--seeds 50] [--steps 20000] [--quick]
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from qir.search import Budget, Decision, PairCost, Problem, Relation, solve

Line = tuple[bool, str]
Floats = npt.NDArray[np.float64]

_RL_GOAL = 5.0
"""Percent above the optimum of the proxy."""

_PAIRS = frozenset({(2, 1), (4, 4), (8, 8)})


def golden(name: str) -> dict[str, object] | None:
    """A published table, or None where it is absent."""
    folder = Path(os.environ.get("QIR_GOLDEN", Path(__file__).resolve().parents[3] / "shared" / "golden"))
    path = folder / name
    return json.loads(path.read_text()) if path.exists() else None


def hawqv3_problem(data: dict[str, object], constraint: str, level: float) -> Problem:
    """HAWQ-V3's integer program: 4 or 8 bits per layer, tied residual branches."""
    trace, four, eight = (
        np.array(data[k]) for k in ("Hutchinson_trace", "delta_weights_4bit_square", "delta_weights_8bit_square")
    )
    low, high = {
        "modelsize": (np.array(data["parameters"]) / 2, np.array(data["parameters"])),
        "bops": (np.array(data["bops"]) / 64, np.array(data["bops"]) / 16),
        "latency": (np.array(data["latency_int4"]), np.array(data["latency_int8"])),
    }[constraint]
    names = [f"layer{i}" for i in range(len(trace))]
    return Problem(
        [Decision(name, (4, 8)) for name in names],
        costs={constraint: np.stack([low, high], axis=1)},
        relations=[Relation.tie(names[a], names[b], (4, 8)) for a, b in data["ties"]],
        budgets={constraint: Budget(maximum=float(low.sum() + level * (high.sum() - low.sum())))},
        sensitivity=np.stack([trace * four, trace * eight], axis=1),
    )


def hawqv3() -> Iterator[Line]:
    """Published configurations: equal, or better at the same budget; solved in under 0.2 s."""
    data = golden("hawqv3_resnet18_ilp.json")
    if data is None:
        yield True, "HAWQ-V3 ResNet-18: skipped, the published table is absent"
        return
    solve(Problem([Decision("first", (4, 8))], sensitivity=[[1.0, 0.0]]), "milp")  # loads the solver
    for key, published in data["published_bits"].items():
        constraint, level = key.split("_")
        problem = hawqv3_problem(data, constraint, float(level))
        result = solve(problem, "milp")
        theirs = dict(zip(problem.names, published, strict=True))
        row = np.array([problem.indices(theirs)])
        value = float(problem.tables.sensitivity.total(row)[0])
        broken = problem.violations(theirs)
        same = dict(result.policy) == theirs
        good = result.status == "optimal" and result.seconds < 0.2 and (same or bool(broken) or result.value <= value)
        word = "identical" if same else f"ours {result.value:.6g}, published {value:.6g}"
        if broken:
            word += f"; the published one breaks: {'; '.join(broken)}"
        yield good, f"HAWQ-V3 ResNet-18 {key}: {word}; {result.certificate}; {result.seconds * 1e3:.0f} ms"


def releq_problem(data: dict[str, object], mean_bits: float) -> Problem:
    """ReLeQ's LeNet table under a limit on the mean width."""
    table = {tuple(bits): accuracy for bits, accuracy in data["entries"]}
    count, options = len(next(iter(table))), tuple(sorted({b for bits in table for b in bits}))
    names = [f"layer{i}" for i in range(count)]
    return Problem(
        [Decision(name, options) for name in names],
        costs={"mean bits": [[b / count for b in options]] * count},
        budgets={"mean bits": Budget(maximum=mean_bits)},
        objective=lambda policy: table[tuple(policy[name] for name in names)],
    )


def gaps(problem: Problem, method: str, seeds: int, marks: tuple[int, ...]) -> Floats:
    """Points to the optimum [seeds, marks] after so many evaluations."""
    optimum = solve(problem, "exhaustive").value
    rows = []
    for seed in range(seeds):
        options = {"record": False, "accuracy_scale": 0.01} if method == "rl" else {}
        result = solve(problem, method, evaluations=max(marks), seed=seed, **options)
        rows.append([optimum - result.best_after(mark) for mark in marks])
    return np.array(rows)


def releq_printed(seeds: int) -> Iterator[Line]:
    """ReLeQ as printed, without a budget: it ends where its reward has its maximum, at the paper's 2, 2, 3, 2 bits."""
    data = golden("releq_lenet_accuracy.json")
    if data is None:
        yield True, "ReLeQ as printed: skipped, the published table is absent"
        return
    open_problem = replace(releq_problem(data, 8.0), budgets={})
    reference = open_problem.objective(dict.fromkeys(open_problem.names, 8)) / 100
    for seed in range(seeds):
        start = time.process_time()
        found = solve(open_problem, "releq", seed=seed, accuracy_scale=0.01, reference=reference, episodes=300)
        bits, last = list(found.policy.values()), found.probabilities[-1]
        likely = [open_problem.decisions[0].options[int(np.argmax(line))] for line in last]
        effort = f"{len(found.evaluations)} policies in {found.counts['episodes']} episodes"
        end = f"most likely at the end {likely} with probabilities {[round(max(line), 2) for line in last]}"
        seconds = f"{time.process_time() - start:.0f} CPU s"
        line = f"ReLeQ as printed, seed {seed}: {bits}, reward {found.reward:.4f}, {effort}, {end}; {seconds}"
        yield bits == [2, 2, 3, 2], line


def describe(found: Floats, marks: tuple[int, ...]) -> str:
    """Mean gap with its 95 % interval, per number of evaluations."""
    half = 1.96 * found.std(0, ddof=1) / np.sqrt(len(found))
    return ", ".join(f"{m}: {g:.3f} ± {h:.3f}" for m, g, h in zip(marks, found.mean(0), half, strict=True))


def releq(seeds: int, methods: tuple[str, ...]) -> Iterator[Line]:
    """Gap to the optimum on the table: best method at most half of random's, RL not worse than random."""
    data = golden("releq_lenet_accuracy.json")
    if data is None:
        yield True, "ReLeQ LeNet: skipped, the published table is absent"
        return
    marks = (50, 100, 200)
    for limit in (3.0, 4.0):
        problem = releq_problem(data, limit)
        found = {method: gaps(problem, method, seeds, marks) for method in methods}
        means = {method: table.mean(0) for method, table in found.items()}
        best = np.min([m for name, m in means.items() if name != "random"], axis=0)
        for method, table in found.items():
            good = method != "rl" or bool((means["rl"] <= means["random"] + 1e-12).all())
            yield good, f"ReLeQ LeNet, mean bits <= {limit:g}, {method}: gap in points after {describe(table, marks)}"
        half = bool((best <= means["random"] / 2 + 1e-12).all())
        yield (
            half,
            f"ReLeQ LeNet, mean bits <= {limit:g}: best method's gap {best.round(3)} is at most half of random's",
        )


def chain(layers: int, seed: int = 0, related: bool = True) -> Problem:
    """Activation and weight widths of a chain of layers with the legal operand pairs {(2,1),(4,4),(8,8)}.

    The data operand of a layer is the output quantizer of the layer before: its activation width, the layer's weight
    width and the width of the layer's own output all cost. Sensitivities fall exponentially in the width.
    """
    rng = np.random.default_rng(seed)
    decisions, relations, pairs, sensitivity, size = [], [], [], [], []
    for i in range(layers):
        decisions += [Decision(f"a{i}", (2, 4, 8)), Decision(f"w{i}", (1, 4, 8))]
        if related:
            relations.append(Relation(f"a{i}", f"w{i}", _PAIRS))
        macs = float(np.round(rng.lognormal(3, 1) * 100))
        pairs.append(PairCost(f"a{i}", f"w{i}", macs * np.outer([2, 4, 8], [1, 4, 8])))
        if i:
            traffic = float(np.round(rng.lognormal(2, 1) * 100))
            pairs.append(PairCost(f"a{i - 1}", f"a{i}", traffic * np.add.outer([2, 4, 8], [2, 4, 8])))
        scale = rng.exponential(size=2) ** 1.5
        sensitivity += [list(scale[0] * 4.0 ** -np.array([2, 4, 8])), list(scale[1] * 4.0 ** -np.array([1, 4, 8]))]
        parameters = float(np.round(rng.lognormal(4, 1)))
        size += [[0.0, 0.0, 0.0], [parameters * b for b in (1, 4, 8)]]
    return Problem(
        decisions,
        costs={"size": size},
        pair_costs={"latency": pairs},
        relations=relations,
        budgets={"latency": Budget.parse("0.35x")},
        sensitivity=sensitivity,
    )


def chains(steps: int, lengths: tuple[int, ...] = (21, 54, 110)) -> Iterator[Line]:
    """MILP proves optimality within 5 s; a tie-blind optimum is illegal; RL's distance after so many steps."""
    for layers in lengths:
        problem = chain(layers)
        exact = solve(problem, "milp")
        yield (
            exact.status == "optimal" and exact.seconds < 5.0,
            f"chain of {layers} layers, milp: {exact.certificate}; {exact.seconds:.2f} s",
        )
        blind = solve(chain(layers, related=False), "milp")
        broken = [v for v in problem.violations(blind.policy) if v.startswith("relation")]
        yield bool(broken), f"chain of {layers} layers: the optimum without relations breaks {len(broken)} of them"
        episodes = max(1, steps // len(problem.decisions))
        start = time.perf_counter()
        found = solve(problem, "rl", evaluations=episodes, seed=0, record=False)
        distance = 100 * (found.value - exact.value) / exact.value
        yield (
            not problem.violations(found.policy) and distance <= _RL_GOAL,
            (
                f"chain of {layers} layers, rl: {distance:.1f} % above the optimum after {episodes} episodes "
                f"({steps} steps; goal {_RL_GOAL:g} %), {time.perf_counter() - start:.0f} s"
            ),
        )


def main() -> int:
    """Print every check; 1 if one failed."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--seeds", type=int, default=50)
    parser.add_argument("--steps", type=int, default=20_000)
    parser.add_argument("--quick", action="store_true", help="5 seeds, 2000 steps")
    arguments = parser.parse_args()
    seeds, steps = (5, 2000) if arguments.quick else (arguments.seeds, arguments.steps)
    groups: list[Callable[[], Iterator[Line]]] = [
        hawqv3,
        lambda: releq(seeds, ("random", "evolution", "surrogate", "rl")),
        lambda: releq_printed(1 if arguments.quick else 3),
        lambda: chains(steps),
    ]
    failed = 0
    for good, line in itertools.chain.from_iterable(group() for group in groups):
        print(("ok    " if good else "FAIL  ") + line, flush=True)
        failed += not good
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
