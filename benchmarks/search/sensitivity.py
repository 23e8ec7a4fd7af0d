"""Which sensitivity to believe: every metric against the measured loss, its price, and the policies that it leads to.

python benchmarks sensitivity [--only lenet,lstm] [--networks FOLDER] [--photos ARCHIVE_OR_FOLDER] [--keep FILE.json]

For each network and metric: CPU seconds on 32 calibration images; Spearman's rank correlation, over the quantizers,
with the loss that was measured on other images with one quantizer alone on (divergence from the float network's
probabilities), at 2, 3, 4 and 8 bits, weights and activations apart; and what the exact solver's policy at 0.15x the
bit operations of 8/8 loses on these images, and how many of them get the float network's class, next to 3 bits
everywhere (0.14x), all without correction. EfficientNet-Lite0 takes
part where photos are given (ImageNet, any classes). `--keep` remembers what was measured, so that a run goes on.
"""

from __future__ import annotations

import argparse
import json
import tarfile
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from real_networks import DEVIATION, MEAN, efficientnet_lite0
from scipy.stats import spearmanr
from small_networks import KINDS, small_network

from qir import models
from qir.backends import Target, cost_table, load_target
from qir.fake_quant import quantizers
from qir.module import Module
from qir.passes.constraints.propagate_constraints import BitConstraints
from qir.search import Budget, load_network, network_problem, prepare, solve
from qir.search.evaluation.reuse import ReusingNetwork
from qir.search.metrics.measuring import METRICS, measure
from qir.search.metrics.outputs.output_loss import output_loss
from qir.search.problem.sensitivity import Sensitivity

Array = np.ndarray[Any, np.dtype[Any]]

WIDTHS = (2, 3, 4, 8)
BUDGET, UNIFORM = "0.15x", 3
CALIBRATION, HELD, MEASURED = 128, 128, 32
PHOTO = "efficientnet-lite0"
EXHAUSTIVE = ("output-divergence", "output-mse", "rate-distortion")
FEW = {"output-distance": 8}
"""Images of metrics that `auto` gives fewer of."""
LARGEST = {"hessian-trace": 20, "adversarial-noise": 20, **dict.fromkeys(EXHAUSTIVE, 60)}
"""Quantizers up to which a dear metric is measured."""


@dataclass(frozen=True)
class Study:
    """A calibrated network whose quantizers are all decisions, with images.

    Attributes:
        name, module, constraints: the network.
        images: what metrics see, float32 [N, …].
        held: what policies are judged on, others.
        ranked: those of `held` that the loss of single quantizers is measured on.
    """

    name: str
    module: Module
    constraints: BitConstraints
    images: Array
    held: Array
    ranked: Array

    def kinds(self) -> dict[str, list[str]]:
        """Decisions of weights and of activations."""
        known = quantizers(self.module.graph)
        weights = [name for name in self.constraints.decisions if known[name].is_weight]
        return {"weights": weights, "activations": [n for n in self.constraints.decisions if n not in weights]}


def target() -> Target:
    """Weights and activations of 2, 3, 4 and 8 bits in any pair."""
    fields = load_target("npu-148").model_dump() | {
        "name": "any-pair",
        "description": "Weights and activations of 2, 3, 4 and 8 bits in any pair.",
        "weight_widths": WIDTHS,
        "activation_widths": WIDTHS,
        "pairs": tuple((a, w) for a in WIDTHS for w in WIDTHS),
    }
    return Target.model_validate(fields)


def study(name: str, folder: Path, photos: Path | None) -> Study:
    """A network with its images."""
    if name == PHOTO:
        if photos is None:
            raise SystemExit(f"{PHOTO}: give --photos")
        images = read_photos(photos)
        path, calibration, held = efficientnet_lite0(folder), images[:64], images[64:96]
        ranked = held[:8]
    else:
        path = small_network(name, folder) if name in KINDS else models.path(name)
        calibration = models.fashion_mnist("calibration").images[:CALIBRATION]
        ranked = held = models.fashion_mnist("search-validation").images[:HELD]
    module = load_network(path)
    constraints = prepare(module, target(), calibration)
    return Study(name, module, constraints, calibration[:MEASURED], held, ranked)


def read_photos(where: Path) -> Array:
    """Photos of a folder or an archive in random order, as EfficientNet-Lite takes them: float32 [N, 3, 224, 224]."""
    from PIL import Image

    with tempfile.TemporaryDirectory() as folder:
        if where.is_file():
            with tarfile.open(where) as archive:
                archive.extractall(folder, filter="data")
        root = Path(folder) if where.is_file() else where
        found = []
        for path in sorted(root.rglob("*.jpg")):
            with Image.open(path) as photo:
                pixels = photo.convert("RGB").resize((224, 224), Image.Resampling.LANCZOS)
                found.append(np.asarray(pixels, np.float32).transpose(2, 0, 1))
    order = np.random.default_rng(0).permutation(len(found))
    return np.stack([(found[index] - np.float32(MEAN)) / np.float32(DEVIATION) for index in order])


def measured(where: Study, metric: str) -> tuple[Sensitivity, float]:
    """Sensitivities by a metric and the CPU seconds that they took."""
    start = time.process_time()
    found = measure(metric, where.module, where.constraints, where.images[: FEW.get(metric, MEASURED)])
    return found, time.process_time() - start


def agreement(where: Study, truth: Sensitivity, found: Sensitivity) -> list[float | None]:
    """Spearman's correlation with the measured loss, weights at each width, then activations."""
    ranks: list[float | None] = []
    for names in where.kinds().values():
        for bits in WIDTHS:
            pairs = [(truth.values[n, bits], found.values[n, bits]) for n in names if (n, bits) in truth.values]
            constant = any(len(set(column)) < 2 for column in zip(*pairs, strict=True))
            ranks.append(None if constant else float(spearmanr(pairs).statistic))
    return ranks


def policy_of(where: Study, found: Sensitivity) -> tuple[float, float]:
    """What the best policy at the budget loses in nats, and the share of images that get the float network's class."""
    table = cost_table(where.module, target())
    problem = network_problem(
        where.module,
        where.constraints,
        table,
        budgets={"bops": Budget.parse(BUDGET)},
        sensitivity=found.per_decision(where.constraints),
    )
    return judged(where, dict(solve(problem, "milp", time_limit=20.0).policy))


def judged(where: Study, decided: dict[str, Any]) -> tuple[float, float]:
    """Loss and agreement of a policy on the held images."""
    network, losses, equal = ReusingNetwork(where.module), [], 0
    network.set_policy(where.constraints.complete(decided))
    for start in range(0, len(where.held), 16):
        batch = torch.from_numpy(where.held[start : start + 16])
        with torch.no_grad():
            made = network(batch)
            with network.quantizers_off():
                aims = network(batch)
        losses.append(output_loss([made[0].numpy()], [aims[0].numpy()], classes=True) * len(batch))
        equal += int((made[0].argmax(1) == aims[0].argmax(1)).sum())
    return sum(losses) / len(where.held), equal / len(where.held)


def rows(where: Study) -> list[dict[str, Any]]:
    """One row for each metric that is not too dear, and one for uniform widths."""
    start = time.process_time()
    truth = measure("output-distance", where.module, where.constraints, where.ranked)
    print(f"{where.name}: loss measured in {time.process_time() - start:.0f} CPU s", flush=True)
    made = []
    for metric in METRICS:
        if len(where.constraints.decisions) > LARGEST.get(metric, 10**6):
            continue
        found, seconds = measured(where, metric)
        loss, equal = policy_of(where, found)
        ranks = agreement(where, truth, found)
        made.append({"metric": metric, "seconds": seconds, "ranks": ranks, "loss": loss, "equal": equal})
        print(row(where.name, made[-1]), flush=True)
    loss, equal = judged(where, dict.fromkeys(where.constraints.decisions, UNIFORM))
    made.append({"metric": f"uniform {UNIFORM}", "seconds": None, "ranks": [None] * 8, "loss": loss, "equal": equal})
    print(row(where.name, made[-1]), flush=True)
    return made


HEADINGS = ("network", "metric", "CPU s", *(f"{kind}{bits}" for kind in "wa" for bits in WIDTHS), "loss", "as float %")


def row(name: str, found: dict[str, Any]) -> str:
    """A row in Markdown."""
    ranks = ["" if rank is None else f"{rank:.2f}" for rank in found["ranks"]]
    seconds = "" if found["seconds"] is None else f"{found['seconds']:.1f}"
    cells = [name, found["metric"], seconds, *ranks, f"{found['loss']:.3g}", f"{100 * found['equal']:.1f}"]
    return "| " + " | ".join(cells) + " |"


def closing(found: dict[str, list[dict[str, Any]]]) -> None:
    """Print the mean over the networks: ranks, and the loss as a multiple of the least loss on that network."""
    print(f"\nmean over {', '.join(found)}; loss as a multiple of the best metric's (geometric mean)")
    metrics = dict.fromkeys(r["metric"] for made in found.values() for r in made)
    for metric in metrics:
        mine = {name: r for name, made in found.items() for r in made if r["metric"] == metric}
        ranks = [rank for r in mine.values() for rank in r["ranks"] if rank is not None]
        shares = [r["loss"] / min(other["loss"] for other in found[name]) for name, r in mine.items()]
        equal = np.mean([r["equal"] for r in mine.values()])
        seconds = sum(r["seconds"] or 0.0 for r in mine.values())
        rank = f"{np.mean(ranks):.2f}" if ranks else ""
        print(
            f"| {metric} | {len(mine)} | {seconds:.1f} | {rank} | {np.exp(np.mean(np.log(shares))):.2f} | "
            f"{100 * equal:.1f} |"
        )


def main() -> None:
    """Measure the networks that were asked for, then print the means."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", help="networks, separated by commas")
    parser.add_argument("--networks", type=Path, default=Path("out/networks"))
    parser.add_argument("--photos", type=Path)
    parser.add_argument("--keep", type=Path)
    given = parser.parse_args()
    torch.set_num_threads(1)
    names = ["lenet", "residual", "resnet-20", *KINDS, *([PHOTO] if given.photos else [])]
    wanted = given.only.split(",") if given.only else names
    found: dict[str, list[dict[str, Any]]] = {}
    if given.keep is not None and given.keep.exists():
        found = json.loads(given.keep.read_text(encoding="utf-8"))
    print("| " + " | ".join(HEADINGS) + " |")
    for name in wanted:
        if name in found:
            print("\n".join(row(name, made) for made in found[name]))
            continue
        found[name] = rows(study(name, given.networks, given.photos))
        if given.keep is not None:
            given.keep.write_text(json.dumps(found), encoding="utf-8")
    closing(found)


if __name__ == "__main__":
    main()
