"""The recipes as a document, with what they reached: `docs/reference/recipes.md`."""

from __future__ import annotations

import json
from pathlib import Path

from qir.search.recipes.run import OBJECTIVES
from qir.search.recipes.table import RECIPES, recipe

MEASURED = Path(__file__).resolve().parents[2] / "docs" / "reference" / "recipes_measured.json"
"""What `python benchmarks recipes` measured."""


COLUMNS = (
    "recipe",
    "source",
    "sensitivity",
    "solver",
    "optimised",
    "what differs, and why",
    "measured result",
    "points over a random policy",
    "points to the best",
)

WITHOUT = {
    "SLWP, DNAS, EdMIPS, BP-NAS, HMQ": "the relaxed choice, expected costs and one training loop "
    "(`qir.search.gradient`), of which AutoQNN is made; no method of these papers",
    "DQ": "a learned step or range (schemes `lsq`, `pact`); its bits are not learned with it",
    "Bayesian Bits": "none: no gates, no residual quantizers",
    "OPQ": "none: no pruning (0 bits of a channel can be written, no search decides them)",
    "Bit-Mixer, AdaBits": "none: a file holds one policy",
    "MPNASEE": "none: no architecture is searched",
    "HAWQ (the first)": "its metric, traces of Hessians, in `hawq-v2`; not the ranking by the largest eigenvalue",
    "ACIQ": "none of its closed forms; calibration by error (`mse`) serves the same end",
    "BSQ": "none: bits are not parameters that a penalty draws down",
    "LQ-Nets, HWGQ, TTQ": "none of these schemes; `kmeans`, `clipq` and `ternary` are nearest",
}
"""Systems that the papers describe or compare with → what of them is here."""


def document() -> str:
    """Return the text of `docs/reference/recipes.md`.

    Every recipe, its parts, what differs from the paper, and what it reaches.
    """
    measured = json.loads(MEASURED.read_text(encoding="utf-8")) if MEASURED.exists() else {}
    lines = [
        "# Recipes",
        "",
        "Made by `python tools/documents/recipes.py > docs/reference/recipes.md`.",
        "`recipe(name).run(model, target=…, data=…, labels=…, budget={…})` runs one.",
        "",
        "The last columns are from `python benchmarks recipes`: the shipped LeNet on Fashion-MNIST, target `npu-148`,",
        "latency at most 0.35x of uniform 8/8, 512 calibration images, at most 20 measured policies; accuracy on the",
        "10,000 test images (standard error), share of the latency, CPU seconds of the recipe. No retraining, so that",
        "the rows compare choices of bits; `autoqnn` learns schemes and weights too.",
        *_space(measured.get("space")),
        "",
        f"| {' | '.join(COLUMNS)} |",
        f"|{'---|' * len(COLUMNS)}",
    ]
    lines += [
        f"| `{r.name}` | {r.source} | {r.metric or 'none'} | {r.solver} | {OBJECTIVES[r.objective]} | {r.differs} | "
        f"{_reached(measured.get(r.name))} | {_against(measured.get(r.name), measured.get('space'))} |"
        for r in map(recipe, RECIPES)
    ]
    lines += ["", "## Systems of the papers without a recipe", "", "| system | what of it is here |", "|---|---|"]
    lines += [f"| {system} | {here} |" for system, here in WITHOUT.items()]
    return "\n".join([*lines, ""])


def _space(row: dict[str, float] | None) -> list[str]:
    """Return what the rows are held against."""
    if row is None:
        return []
    return [
        f"Inside that budget lie {row['policies']:g} policies: one drawn at random has {100 * row['mean']:.2f} % on",
        f"average, the best of all {100 * row['best']:.2f} % (it is known from the test images, which no search sees).",
        "Differences below 0.4 points, one standard error of a difference, tell nothing: on so small a space no recipe",
        "can be told from another, only from a random policy.",
        "`wang2024` and `releq` choose by rewards that pay for low costs too: they end cheaper and less accurate.",
    ]


def _against(row: dict[str, float] | None, space: dict[str, float] | None) -> str:
    if row is None or space is None:
        return "not measured | not measured"
    return f"{100 * (row['accuracy'] - space['mean']):+.2f} | {100 * (row['accuracy'] - space['best']):+.2f}"


def _reached(row: dict[str, float] | None) -> str:
    if row is None:
        return "not measured"
    error = 100 * row["standard_error"]
    return f"{100 * row['accuracy']:.2f} ({error:.2f}) %, {row['ratio']:.3f}x, {row['seconds']:g} s"


if __name__ == "__main__":
    print(document(), end="")
