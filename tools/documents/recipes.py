"""The recipes as a document, with what they reached: `docs/reference/recipes.md`."""

from __future__ import annotations

import json
from pathlib import Path

from qir.search.recipes.run import OBJECTIVES
from qir.search.recipes.table import RECIPES, recipe

MEASURED = Path(__file__).resolve().parents[2] / "docs" / "reference" / "recipes_measured.json"
"""What `python benchmarks recipes` measured."""


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
        "The last column is from `python benchmarks recipes`: the shipped LeNet on Fashion-MNIST, target `npu-148`,",
        "latency at most 0.35x of uniform 8/8, 512 calibration images, at most 20 measured policies; accuracy on the",
        "10,000 test images (standard error), share of the latency, CPU seconds of the recipe. No retraining, so that",
        "the rows compare choices of bits; `autoqnn` learns schemes and weights too.",
        "",
        "| recipe | source | sensitivity | solver | optimised | what differs, and why | measured result |",
        "|---|---|---|---|---|---|---|",
    ]
    lines += [
        f"| `{r.name}` | {r.source} | {r.metric or 'none'} | {r.solver} | {OBJECTIVES[r.objective]} | {r.differs} | "
        f"{_reached(measured.get(r.name))} |"
        for r in map(recipe, RECIPES)
    ]
    return "\n".join([*lines, ""])


def _reached(row: dict[str, float] | None) -> str:
    if row is None:
        return "not measured"
    error = 100 * row["standard_error"]
    return f"{100 * row['accuracy']:.2f} ({error:.2f}) %, {row['ratio']:.3f}x, {row['seconds']:g} s"


if __name__ == "__main__":
    print(document(), end="")
