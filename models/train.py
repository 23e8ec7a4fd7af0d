"""`python -m qir.models.train lenet`: trains a network by its recipe and writes its ONNX file and its card."""

from __future__ import annotations

import argparse
import hashlib
import json
import math
import sys
import time
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qir.errors import QirError
from qir.models.data.fashion_mnist import TRAIN_RANGES
from qir.models.recipes import RECIPES, TrainingData, TrainingRecipe, training_data
from qir.models.shipped import file_stem, names
from qir.support.atomic_write import atomic_write, make_folder

if TYPE_CHECKING:
    from qir.models.data.samples import Samples


_NORMALISATION = {"f": "pixel / 255", "i": "numbers of words"}


def main(arguments: list[str] | None = None) -> int:
    """Train, export, measure and write; return the exit code (2 for a QirError)."""
    parser = argparse.ArgumentParser(prog="python -m qir.models.train", description=__doc__)
    parser.add_argument("name", choices=sorted(RECIPES))
    parser.add_argument("--out", type=Path, help="folder of the two files; by default that of the shipped networks")
    parser.add_argument("--epochs", type=int, help="another number of epochs than the recipe's")
    parser.add_argument("--seed", type=int, help="another seed than the recipe's")
    parser.add_argument("--data", help="where the full data set is")
    options = parser.parse_args(arguments)
    if options.out is None and options.name not in names():
        parser.error(f"{options.name} does not come with qir: name the folder of its files with --out")
    recipe = RECIPES[options.name]
    recipe = replace(recipe, epochs=options.epochs or recipe.epochs)
    recipe = recipe if options.seed is None else replace(recipe, seed=options.seed)
    try:
        make(options.name, recipe, options.out or Path(__file__).parent / "trained", options.data)
    except QirError as error:
        print(error, file=sys.stderr)
        return 2
    return 0


def make(name: str, recipe: TrainingRecipe, out: Path, path: str | None = None) -> Path:
    """Train by the recipe and write `<stem>.onnx` and `<stem>.json`.

    Args:
        name: name of the recipe.
        recipe: how to train; may differ from `RECIPES[name]`, the card tells.
        out: folder of the two files; made if it is not there.
        path: where the full data set is; the reader's default otherwise.

    Returns:
        The ONNX file.

    Raises:
        DataError: the data set is not there.
    """
    import torch

    from qir.models.builders import build
    from qir.models.exporting import export_network
    from qir.models.training import train

    stem = file_stem(name) if name in names() else f"{name}_{recipe.data}".replace("-", "_")
    file = out / f"{stem}.onnx"
    data = training_data(recipe.data, path)
    make_folder(file)
    start = time.process_time()
    network = train(build(recipe.network, seed=recipe.seed, **recipe.options), data.samples, recipe, _print_epoch)
    seconds = time.process_time() - start
    network = network.to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]
    export_network(network, torch.from_numpy(data.samples.images[:1]), file)
    content = describe(name, recipe, data, file) | {"training_cpu_seconds": round(seconds, 1)}
    with atomic_write(file.with_suffix(".json")) as card:
        card.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    print(json.dumps(content["accuracy"]))
    return file


def describe(name: str, recipe: TrainingRecipe, data: TrainingData, file: Path) -> dict[str, Any]:
    """Return the card of a trained network: what made it, and its accuracy in ONNX Runtime on each measured split.

    Args:
        name: name of the recipe.
        recipe: how it was trained.
        data: what it was trained and is measured on.
        file: its ONNX file.
    """
    import torch

    from qir.models.exporting import OPSET

    samples = data.samples
    card: dict[str, Any] = {
        "name": name,
        "file": file.name,
        "sha256": hashlib.sha256(file.read_bytes()).hexdigest(),
        "bytes": file.stat().st_size,
        "command": _command(name, recipe),
        "recipe": asdict(recipe),
        "input": {
            "shape": ["batch", *samples.images.shape[1:]],
            "normalisation": _NORMALISATION[samples.images.dtype.kind],
        },
        "trained_on": {"split": samples.split, "images": len(samples), "left_out": data.left_out},
        "accuracy": {split: _accuracy(file, samples) for split, samples in data.measured.items()},
        "torch": torch.__version__,
        "opset": OPSET,
    }
    if recipe.data == "fashion-mnist":
        card["splits"] = {split: list(bounds) for split, bounds in TRAIN_RANGES.items()}
    return card


def _command(name: str, recipe: TrainingRecipe) -> str:
    """Return what to type to make the network again; the data's place is left out."""
    changed = [option for option in ("epochs", "seed") if getattr(recipe, option) != getattr(RECIPES[name], option)]
    return " ".join(
        ["python -m qir.models.train", name, *(f"--{option} {getattr(recipe, option)}" for option in changed)]
    )


def _accuracy(file: Path, samples: Samples) -> dict[str, float | int]:
    from qir.models.training import count_correct

    correct = count_correct(file, samples.images, samples.labels)
    rate = correct / len(samples)
    error = math.sqrt(rate * (1 - rate) / len(samples))
    return {"correct": correct, "images": len(samples), "rate": rate, "standard_error": round(error, 5)}


def _print_epoch(epoch: int, loss: float) -> None:
    print(f"epoch {epoch}: mean loss {loss:.4f}", flush=True)


if __name__ == "__main__":
    sys.exit(main())
